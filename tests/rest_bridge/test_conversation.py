from __future__ import annotations

import json
from typing import Any

import pytest

from rest_bridge.errors import ApiError
from tests.rest_bridge.bodies import chat, sent

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}


def test_tools_are_converted() -> None:
    """Schemas become text; a tool without parameters has none."""
    bare = {"type": "function", "function": {"name": "now"}}

    assert sent(chat(tools=[WEATHER, bare]))["chat"]["tools"] == [
        {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": '{"type":"object","properties":{"city":{"type":"string"}}}',
            "strict": True,
        },
        {"name": "now"},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"mode": "TOOL_CHOICE_MODE_AUTO"}),
        ("none", {"mode": "TOOL_CHOICE_MODE_NONE"}),
        ("required", {"mode": "TOOL_CHOICE_MODE_REQUIRED"}),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"mode": "TOOL_CHOICE_MODE_NAMED", "name": "weather"},
        ),
    ],
    ids=str,
)
def test_the_tool_choice_is_converted(choice: Any, expected: dict[str, Any]) -> None:
    """It is a mode, or the name of a tool."""
    body = sent(chat(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False))["chat"]

    assert body["tool_choice"] == expected
    assert body["parallel_tool_calls"] is False


def test_a_conversation_with_calls_is_converted() -> None:
    """It has the assistant's calls, with or without text, and their results."""
    turns = [
        {"role": "user", "content": "Weather in Bonn?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
        {"role": "assistant", "content": "Again.", "tool_calls": [CALL], "refusal": None},
        {"role": "assistant", "content": "It rains.", "tool_calls": []},
    ]
    call = {"id": "call_1", "name": "weather", "arguments": '{"city":"Bonn"}'}

    assert sent(chat(messages=turns))["chat"]["messages"] == [
        {"role": "ROLE_USER", "content": "Weather in Bonn?"},
        {"role": "ROLE_ASSISTANT", "tool_calls": [call]},
        {"role": "ROLE_TOOL", "content": "rain", "tool_call_id": "call_1"},
        {"role": "ROLE_ASSISTANT", "content": "Again.", "tool_calls": [call]},
        {"role": "ROLE_ASSISTANT", "content": "It rains."},
    ]


def test_refusals_of_earlier_turns_are_sent_as_text() -> None:
    """A refusal is a member or a part of the content, and the model reads it as its own text."""
    turns = [
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Well. "}, {"type": "refusal", "refusal": "No."}],
        },
        {"role": "assistant", "content": None, "refusal": "Never."},
        {"role": "assistant", "content": "Yes.", "refusal": "Never."},
    ]

    texts = [turn["content"] for turn in sent(chat(messages=turns))["chat"]["messages"]]
    assert texts == ["No.", "Well. No.", "Never.", "Yes."]


@pytest.mark.parametrize(
    ("turn", "param", "code"),
    [
        ({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}, "content", "invalid_value"),
        (
            {"role": "assistant", "content": [{"type": "refusal"}]},
            "content[0].refusal",
            "missing_required_parameter",
        ),
        (
            {"role": "assistant", "content": [{"type": "text"}]},
            "content[0].text",
            "missing_required_parameter",
        ),
        (
            {"role": "assistant", "content": [{"type": "image_url"}]},
            "content[0].type",
            "unsupported_parameter",
        ),
        ({"role": "assistant", "content": [5]}, "content[0]", "invalid_value"),
        ({"role": "assistant", "refusal": 5}, "refusal", "invalid_value"),
    ],
    ids=str,
)
def test_unsupported_parts_of_messages_are_refused(turn: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        sent(chat(messages=[turn]))

    assert (caught.value.param, caught.value.code) == (f"messages[0].{param}", code)


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [WEATHER, {"type": "function", "function": function}]}


def call_of(**changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "tool_calls": [{**CALL, **changes}]}]}


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"tools": {}}, "tools", "invalid_value"),
        ({"tools": [WEATHER, 5]}, "tools[1]", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "unsupported_parameter"),
        (tool(), "tools[1].function.name", "missing_required_parameter"),
        (tool(name=5), "tools[1].function.name", "invalid_value"),
        (tool(name="f", parameters=[]), "tools[1].function.parameters", "invalid_value"),
        (tool(name="f", description=5), "tools[1].function.description", "invalid_value"),
        (tool(name="f", strict="yes"), "tools[1].function.strict", "invalid_value"),
        ({"tool_choice": "any"}, "tool_choice", "invalid_value"),
        ({"tool_choice": True}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "missing_required_parameter"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "unsupported_parameter"),
        (
            {"tool_choice": {"type": "function", "function": {}}},
            "tool_choice.function.name",
            "missing_required_parameter",
        ),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_value"),
        (call_of(id=None), "messages[0].tool_calls[0].id", "invalid_value"),
        (call_of(type="custom"), "messages[0].tool_calls[0].type", "unsupported_parameter"),
        (
            call_of(function={"name": "f"}),
            "messages[0].tool_calls[0].function.arguments",
            "missing_required_parameter",
        ),
        (
            call_of(function={"name": "f", "arguments": {}}),
            "messages[0].tool_calls[0].function.arguments",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": 5}]},
            "messages[0].tool_call_id",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "tool", "tool_call_id": "x"}]},
            "messages[0].content",
            "missing_required_parameter",
        ),
    ],
    ids=json.dumps,
)
def test_malformed_tools_are_refused_by_name(given: dict[str, Any], param: str, code: str) -> None:
    """The error has the path of the wrong value."""
    with pytest.raises(ApiError) as caught:
        sent(chat(**given))

    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
