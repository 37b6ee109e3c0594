"""Tools, the choice among them, and the calls and results of a conversation."""

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
"""Texts that are no JSON object, or none that has a text again."""


def called(arguments: str = "{}", **fields: str) -> pb.ChatMessage:
    call = pb.ToolCall(**{"id": "1", "name": "f", "arguments": arguments, **fields})
    return pb.ChatMessage(role=pb.ROLE_ASSISTANT, tool_calls=[call])


def test_tools_as_they_were_written() -> None:
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
def test_how_free_the_model_is(mode: Any, expected: ToolMode, enforces: bool) -> None:
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
def test_a_name_that_no_tool_has(name: str) -> None:
    choice = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name=name)

    assert list(wrong(chat(tools=[tool()], tool_choice=choice))) == ["chat.tool_choice"]


def test_a_mode_of_another_protocol() -> None:
    choice = pb.ToolChoice(mode=99)  # type: ignore[arg-type]

    assert list(wrong(chat(tools=[tool()], tool_choice=choice))) == ["chat.tool_choice.mode"]
    assert list(wrong(chat(tool_choice=choice))) == ["chat.tool_choice.mode"]


@pytest.mark.parametrize("mode", [pb.TOOL_CHOICE_MODE_REQUIRED, pb.TOOL_CHOICE_MODE_NAMED])
def test_no_call_can_be_enforced_without_tools(mode: Any) -> None:
    assert list(wrong(chat(tool_choice=pb.ToolChoice(mode=mode, name="f")))) == ["chat.tool_choice"]


def test_without_tools_none_is_called() -> None:
    assert conversation(chat()).tool_choice == ToolChoice(ToolMode.NONE)


@pytest.mark.parametrize("name", ["", "a b", "é", "f" * 65, "f\n", "f.g"])
def test_names_that_no_tool_may_have(name: str) -> None:
    assert list(wrong(chat(tools=[tool("ok"), tool(name)]))) == ["chat.tools[1].name"]
    assert list(wrong(chat(USER, called(name=name)))) == ["chat.messages[1].tool_calls[0].name"]


def test_two_tools_of_one_name() -> None:
    assert list(wrong(chat(tools=[tool("f"), tool("g"), tool("f")]))) == ["chat.tools[2].name"]


def test_more_tools_than_a_request_may_have() -> None:
    most = [tool(f"f{number}") for number in range(128)]

    assert len(conversation(chat(tools=most)).tools) == 128
    assert wrong(chat(tools=[*most, tool("one-more")])) == {"chat.tools": "holds 129 tools; it may hold 128."}


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_what_is_no_json_object(text: str) -> None:
    """Whatever passed here would be written into a prompt, and some of it has no text."""
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
    """The service's own answer is unfinished JSON where a call was cut short; some clients send nothing."""
    assert conversation(chat(USER, called(arguments))).turns[1].tool_calls[0].arguments == arguments


def test_what_calls_and_results_must_have() -> None:
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


def test_the_list_of_what_is_wrong_has_an_end() -> None:
    assert len(wrong(chat(tools=[tool(f"!{number}") for number in range(128)]))) == 16
    calls = pb.ChatMessage(role=pb.ROLE_ASSISTANT, tool_calls=[pb.ToolCall()] * 1000)
    assert len(wrong(chat(calls))) == 16


def test_nothing_of_a_tool_is_echoed() -> None:
    found = wrong(chat(USER, called('["hunter2"]', name="hunter2!"), tools=[tool("hunter2!", '"hunter2"')]))

    assert len(found) == 3
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("mode", [pb.TOOL_CHOICE_MODE_REQUIRED, pb.TOOL_CHOICE_MODE_NAMED])
def test_demanded_calls_have_an_end(mode: pb.ToolChoiceMode.ValueType) -> None:
    """So nothing is to be generated past it: an engine would have no token left that the grammar allows."""
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


def test_what_cannot_be_continued() -> None:
    both = {"add_generation_prompt": True, "continue_final_message": True}
    assert list(wrong(chat(USER, **both))) == ["chat.continue_final_message"]
    assert list(wrong(chat(USER, called("{}"), continue_final_message=True))) == [
        "chat.continue_final_message"
    ]
