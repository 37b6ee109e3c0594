"""Tools, tool choices, and the calls and results of a conversation."""

from __future__ import annotations

from typing import Any

import pytest
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1 import model_service_pb2 as model_pb

from inference_service.errors import InvalidRequest
from inference_service.prompt.conversation import ChatTurn, Ending, Tool, ToolCall, ToolChoice, ToolMode
from inference_service.request.generate import parse_count
from tests.support.parsing import USER, chat, codes, conversation, tool, wrong

NO_OBJECTS = {
    "no JSON": "{",
    "another type": "[]",
    "a number": "5",
    "null": "null",
    "not a number": '{"a": NaN}',
    "infinite": '{"a": -Infinity}',
    "beyond all floats": '{"a": 1e999}',
    "digits without end": f'{{"a": {"9" * 5000}}}',
    "half a surrogate pair": '{"a": "\\ud800"}',
    "the other half": '{"\\udc00": 1}',
    "very deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
}
"""Texts that are no JSON object, or one that cannot be serialized."""


def called(arguments: str = "{}", **fields: str) -> pb.ChatMessage:
    call = pb.ToolCall(**{"id": "1", "name": "f", "arguments": arguments, **fields})
    return pb.ChatMessage(role=pb.ROLE_ASSISTANT, tool_calls=[call])


def test_tools_are_kept_as_they_were_written() -> None:
    schema = '{"type": "object", "properties": {"a": {"const": "\\u00e9\\ud83d\\ude00"}}}'
    found = conversation(chat(tools=[tool("f", schema, description="d", strict=True), tool("g-_9")]))

    parameters = {"type": "object", "properties": {"a": {"const": "é😀"}}}
    assert found.tools == (Tool("f", "d", parameters, strict=True), Tool("g-_9", "", None, strict=False))
    assert found.tool_choice == ToolChoice(ToolMode.AUTO)
    assert found.parallel_tool_calls is True
    assert not found.enforces_calls


@pytest.mark.parametrize(
    ("mode", "expected", "enforces"),
    [
        (pb.TOOL_CHOICE_MODE_UNSPECIFIED, ToolMode.AUTO, False),
        (pb.TOOL_CHOICE_MODE_AUTO, ToolMode.AUTO, False),
        (pb.TOOL_CHOICE_MODE_NONE, ToolMode.NONE, False),
        (pb.TOOL_CHOICE_MODE_REQUIRED, ToolMode.REQUIRED, True),
    ],
)
def test_every_mode_of_the_tool_choice(mode: Any, expected: ToolMode, enforces: bool) -> None:
    found = conversation(chat(tools=[tool()], tool_choice=pb.ToolChoice(mode=mode)))

    assert found.tool_choice == ToolChoice(expected)
    assert found.enforces_calls is enforces


def test_a_named_tool() -> None:
    choice = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="g")
    found = conversation(chat(tools=[tool("f"), tool("g")], tool_choice=choice, parallel_tool_calls=False))

    assert found.tool_choice == ToolChoice(ToolMode.NAMED, "g")
    assert found.enforces_calls
    assert found.parallel_tool_calls is False


@pytest.mark.parametrize("name", ["h", ""])
def test_the_name_of_an_unknown_tool_is_refused(name: str) -> None:
    choice = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name=name)

    assert list(wrong(chat(tools=[tool()], tool_choice=choice))) == ["chat.tool_choice"]


def test_a_mode_of_another_protocol() -> None:
    choice = pb.ToolChoice(mode=99)  # type: ignore[arg-type]

    assert list(wrong(chat(tools=[tool()], tool_choice=choice))) == ["chat.tool_choice.mode"]
    assert list(wrong(chat(tool_choice=choice))) == ["chat.tool_choice.mode"]


@pytest.mark.parametrize("mode", [pb.TOOL_CHOICE_MODE_REQUIRED, pb.TOOL_CHOICE_MODE_NAMED])
def test_calls_cannot_be_demanded_without_tools(mode: Any) -> None:
    assert list(wrong(chat(tool_choice=pb.ToolChoice(mode=mode, name="f")))) == ["chat.tool_choice"]


def test_without_tools_none_is_called() -> None:
    assert conversation(chat()).tool_choice == ToolChoice(ToolMode.NONE)


@pytest.mark.parametrize("name", ["", "a b", "é", "f" * 65, "f\n", "f.g"])
def test_invalid_tool_names_are_refused(name: str) -> None:
    assert list(wrong(chat(tools=[tool("ok"), tool(name)]))) == ["chat.tools[1].name"]
    assert list(wrong(chat(USER, called(name=name)))) == ["chat.messages[1].tool_calls[0].name"]


def test_two_tools_of_the_same_name_are_refused() -> None:
    assert list(wrong(chat(tools=[tool("f"), tool("g"), tool("f")]))) == ["chat.tools[2].name"]


def test_too_many_tools_are_refused() -> None:
    most = [tool(f"f{number}") for number in range(128)]

    assert len(conversation(chat(tools=most)).tools) == 128
    assert wrong(chat(tools=[*most, tool("one-more")])) == {"chat.tools": "holds 129 tools; it may hold 128."}


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_parameters_that_are_no_json_object_are_refused(text: str) -> None:
    """Accepted parameters are written into the prompt, and some values cannot be serialized."""
    assert list(wrong(chat(tools=[tool("f", text)]))) == ["chat.tools[0].parameters"]
    with pytest.raises(InvalidRequest):
        parse_count(model_pb.CountTokensRequest(model="m", chat=chat(tools=[tool("f", text)]).chat))


def test_calls_and_results_of_a_conversation() -> None:
    result = pb.ChatMessage(role=pb.ROLE_TOOL, content="r", tool_call_id="1")

    found = conversation(chat(USER, called('{"a": 1}'), result))

    assert found.turns == (
        ChatTurn("user", "u"),
        ChatTurn("assistant", "", (ToolCall("1", "f", '{"a": 1}'),)),
        ChatTurn("tool", "r", (), "1"),
    )


@pytest.mark.parametrize("arguments", ["", " \n", *NO_OBJECTS.values()])
def test_any_text_may_be_the_arguments_of_an_earlier_call(arguments: str) -> None:
    """A call of the service that was cut short has incomplete JSON, and some clients send an empty text."""
    assert conversation(chat(USER, called(arguments))).turns[1].tool_calls[0].arguments == arguments


def test_calls_and_results_without_required_members_are_refused() -> None:
    found = codes(
        chat(
            pb.ChatMessage(role=pb.ROLE_TOOL, content="r"),
            called(id=""),
            pb.ChatMessage(role=pb.ROLE_USER, tool_call_id="1"),
            pb.ChatMessage(role=pb.ROLE_USER, tool_calls=called().tool_calls),
        )
    )

    assert found == {
        "chat.messages[0].tool_call_id": "missing_required_parameter",
        "chat.messages[1].tool_calls[0].id": "missing_required_parameter",
        "chat.messages[2].tool_call_id": "invalid_value",
        "chat.messages[3].tool_calls": "invalid_value",
    }


def test_the_list_of_violations_of_tools_is_bounded() -> None:
    assert len(wrong(chat(tools=[tool(f"!{number}") for number in range(128)]))) == 16
    calls = pb.ChatMessage(role=pb.ROLE_ASSISTANT, tool_calls=[pb.ToolCall()] * 1000)
    assert len(wrong(chat(calls))) == 16


def test_errors_repeat_nothing_of_a_tool() -> None:
    found = wrong(chat(USER, called('["hunter2"]', name="hunter2!"), tools=[tool("hunter2!", '"hunter2"')]))

    assert len(found) == 3
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("mode", [pb.TOOL_CHOICE_MODE_REQUIRED, pb.TOOL_CHOICE_MODE_NAMED])
def test_demanded_calls_cannot_be_used_with_ignore_eos(mode: pb.ToolChoiceMode.ValueType) -> None:
    """After the end of the calls the grammar allows no token, so nothing can be generated."""
    message = chat(tools=[tool("f")], tool_choice=pb.ToolChoice(mode=mode, name="f"))
    message.stopping.ignore_eos = True

    assert list(wrong(message)) == ["stopping.ignore_eos"]


@pytest.mark.parametrize(
    ("given", "ending"),
    [
        ({}, Ending.ANSWER),
        ({"add_generation_prompt": True, "continue_final_message": False}, Ending.ANSWER),
        ({"add_generation_prompt": False}, Ending.NOTHING),
        ({"add_generation_prompt": False, "continue_final_message": False}, Ending.NOTHING),
        ({"continue_final_message": True}, Ending.CONTINUE),
        ({"add_generation_prompt": False, "continue_final_message": True}, Ending.CONTINUE),
    ],
    ids=str,
)
def test_how_a_prompt_ends(given: dict[str, bool], ending: Ending) -> None:
    assert (
        conversation(chat(USER, pb.ChatMessage(role=pb.ROLE_ASSISTANT, content="a"), **given)).ending
        is ending
    )


def test_messages_that_cannot_be_continued_are_refused() -> None:
    both = {"add_generation_prompt": True, "continue_final_message": True}
    assert list(wrong(chat(USER, **both))) == ["chat.continue_final_message"]
    assert list(wrong(chat(USER, called("{}"), continue_final_message=True))) == [
        "chat.continue_final_message"
    ]
