"""Samples of parameters that exist at only one endpoint, or differ in meaning between both."""

from __future__ import annotations

from typing import Any

from rest_bridge.openai import policy
from tests.support.parameters.sample import Sample, sample

_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_RESULT = {"role": "tool", "tool_call_id": "1", "content": "done"}


def _turn(**turn: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi", **turn}]}


def _called(**function: Any) -> dict[str, Any]:
    """A conversation with a call and its result."""
    call = {**_CALL, "function": {"name": "f", "arguments": "{}", **function}}
    turns = [{"role": "assistant", "content": "", "tool_calls": [call]}, _RESULT]
    return {"messages": [{"role": "user", "content": "hi"}, *turns]}


def _with_id(name: str) -> dict[str, Any]:
    """A function that adds the same conversation with another call id."""
    user, assistant, result = _called()["messages"]
    turns = [{**assistant, "tool_calls": [{**_CALL, "id": name}]}, {**result, "tool_call_id": name}]
    return {"messages": [user, *turns]}


def _tools(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **function}}]}


_NAMED = {"tool_choice": {"type": "function", "function": {"name": "f"}}}
_CALL_ID = "`chat.messages.tool_calls.id`"
_RESULT_ID = "`chat.messages.tool_call_id`"

_MESSAGES = (
    sample("messages", _turn(), by_grpc="`chat.messages`"),
    sample("messages[].role", _turn(role="system")),
    sample("messages[].content", _turn(content="hello")),
    sample("messages[].content[].type", _turn(content=[{"type": "text", "text": "hi"}])),
    sample("messages[].content[].text", _turn(content=[{"type": "text", "text": "hello"}])),
    sample("messages[].tool_calls", _called(), by_grpc="`chat.messages.tool_calls`"),
    sample("messages[].tool_calls[].id", _with_id("2"), by_grpc=_CALL_ID),
    sample("messages[].tool_calls[].type", _called(), beside=_called()),
    sample("messages[].tool_calls[].function", _called(), by_grpc="`chat.messages.tool_calls`"),
    sample("messages[].tool_calls[].function.name", _called(name="g"), beside=_called()),
    sample("messages[].tool_calls[].function.arguments", _called(arguments='{"x": 1}'), beside=_called()),
    sample("messages[].tool_call_id", _with_id("2"), by_grpc=_RESULT_ID),
    sample("messages[].name", _turn(name="x")),
    sample("messages[].refusal", _turn(role="assistant", content=None, refusal="x"), when="of the assistant"),
    sample("messages[].refusal", _turn(refusal="x"), when="beside a text"),
    sample(
        "messages[].content[].refusal", _turn(role="assistant", content=[{"type": "refusal", "refusal": "x"}])
    ),
    *(sample(f"messages[].{name}", _turn(**{name: [True]})) for name in sorted(policy.IN_MESSAGES)),
    sample("messages[].audio", _turn(audio={"id": "x"})),
    sample("messages[].function_call", _turn(function_call={"name": "f"})),
)

_DEMANDED = {**_tools(), **_NAMED}
_TOOLS = (
    sample("tools", _tools(), by_grpc="`chat.tools`"),
    sample("tools[].type", _tools(), beside=_tools()),
    sample("tools[].function", _tools(), by_grpc="`chat.tools`"),
    sample("tools[].function.name", _tools()),
    sample("tools[].function.description", _tools(description="d"), beside=_tools()),
    sample("tools[].function.parameters", _tools(parameters={"type": "object"}), beside=_tools()),
    sample("tools[].function.strict", _tools(strict=True), beside=_DEMANDED, when="where calls are enforced"),
    sample("tools[].function.strict", _tools(strict=True), beside=_tools(), when="where they are not"),
    sample(
        "tool_choice",
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        beside=_tools(),
        when="`auto` or `none`",
    ),
    sample("tool_choice", {"tool_choice": "required"}, _NAMED, beside=_tools(), when="`required` or named"),
    sample("tool_choice", {"tool_choice": "auto"}, {"tool_choice": "none"}, when="without `tools`"),
    sample("tool_choice.type", _NAMED, beside=_DEMANDED),
    sample("tool_choice.function", _NAMED, beside=_tools()),
    sample("tool_choice.function.name", _NAMED, beside=_tools()),
    sample("parallel_tool_calls", {"parallel_tool_calls": False}, beside=_tools()),
    sample("parallel_tool_calls", {"parallel_tool_calls": False}, when="without `tools`"),
    sample(
        "response_format",
        {"response_format": {"type": "json_object"}},
        beside={**_tools(), "tool_choice": "required"},
        when="where a call is demanded",
        by_grpc="`constraint`",
    ),
)

CHAT: tuple[Sample, ...] = (
    *_MESSAGES,
    *_TOOLS,
    sample("logprobs", {"logprobs": True}),
    sample("top_logprobs", {"top_logprobs": 2}, beside={"logprobs": True}),
    sample("add_generation_prompt", {"add_generation_prompt": False}),
    sample("continue_final_message", {"continue_final_message": True}),
    sample("audio"),
    sample("function_call"),
    sample("functions"),
    sample("modalities"),
    sample("moderation"),
    sample("web_search_options"),
    *(sample(name) for name in sorted(policy.IN_CHAT)),
)

COMPLETIONS: tuple[Sample, ...] = (
    sample("prompt", {"prompt": "hello"}, {"prompt": [5, 6]}, {"prompt": ["a", "b"]}, {"prompt": [[5], [6]]}),
    sample("parse_special", {"parse_special": True}),
    sample("parse_special", {"parse_special": True}, beside={"prompt": [5]}, when="without a text"),
    sample("logprobs", {"logprobs": 0}, when="0"),
    sample("logprobs", {"logprobs": 2}, when="1 or more"),
    sample("echo", {"echo": True}),
    sample("echo", {"echo": True}, beside={"logprobs": 0}, when="with `logprobs`"),
    sample("best_of", {"best_of": 1}, when="1, or the same as `n`"),
    sample("best_of", {"best_of": 2}, when="otherwise"),
    sample("suffix", {"suffix": "x"}),
    *(sample(name) for name in sorted(policy.IN_COMPLETIONS)),
)
