"""Finds how a model writes tool calls, and writes tools as text for templates without tool support."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inference_service.prompt.conversation import (
    ChatTurn,
    RawArguments,
    Tool,
    ToolCall,
    read_arguments,
    tool_parameters,
    written_arguments,
)


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A tool call as JSON text, with the text around it.

    A call is `{"name": "<name>", "<arguments key>": {...}}` between `opening` and `closing`, and the next
    one follows behind `separator`. The parser reads every format, so this is for writing and enforcing.
    """

    arguments_key: str
    opening: str = ""
    closing: str = ""
    separator: str = "\n"

    def head(self, name: str) -> str:
        """The text before a call's arguments."""
        return f'{self.opening}{{"name": "{name}", "{self.arguments_key}": '

    @property
    def tail(self) -> str:
        """The text after a call's arguments."""
        return f"}}{self.closing}"

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        return self.separator.join(f"{self.head(c.name)}{c.arguments}{self.tail}" for c in calls)


PLAIN = ToolFormat("arguments")
"""The service's own format, for templates without tools: one line a call."""

BARE = {key: ToolFormat(key, separator="; ") for key in ("arguments", "parameters")}
"""JSON with nothing around it, as Llama 3.1 was trained to write calls (with `parameters`)."""

TAGGED = {key: ToolFormat(key, "<tool_call>\n", "\n</tool_call>") for key in ("arguments", "parameters")}
"""Between tags, as Hermes and Qwen models write calls (with `arguments`)."""


_INSTRUCTIONS = """\
You can call these tools:
{tools}

To call a tool, answer with its name and arguments as one line of JSON, and nothing else:
{{"name": "<name of the tool>", "arguments": {{<arguments as its parameters describe them>}}}}
Write one such line for each call. The results come with the next message.
If no tool helps, answer in words."""


def fold_tools(turns: Sequence[ChatTurn], tools: Sequence[Tool], *, takes_system: bool) -> list[ChatTurn]:
    """Return the conversation with its calls, results and tools as text.

    The tools are listed in the system message, or in the first message where the template takes no system
    message. A call is what the model would have written. Results come from the user, together with what
    the user says right after them, because many templates want users and assistants to alternate.
    """
    folded = list(_folded(turns))
    return _instructed(folded, _instructions(tools), takes_system) if tools else folded


def _instructions(tools: Sequence[Tool]) -> str:
    lines = (
        {"name": tool.name, "description": tool.description, "parameters": tool_parameters(tool)}
        for tool in tools
    )
    return _INSTRUCTIONS.format(tools="\n".join(_dumped(line) for line in lines))


def _instructed(turns: list[ChatTurn], instructions: str, takes_system: bool) -> list[ChatTurn]:
    roles = [turn.role for turn in turns[:1]]
    if roles == ["system"]:
        first = replace(turns[0], content=_joined(turns[0].content, instructions))
    elif roles == ["user"] and not takes_system:
        first = replace(turns[0], content=_joined(instructions, turns[0].content))
    else:
        return [ChatTurn("system" if takes_system else "user", instructions), *turns]
    return [first, *turns[1:]]


def _folded(turns: Sequence[ChatTurn]) -> Iterator[ChatTurn]:
    names = {call.id: call.name for turn in turns for call in turn.tool_calls}
    results: list[str] = []
    for turn in turns:
        if turn.role == "tool":
            results.append(f"Result of {names.get(turn.tool_call_id or '', 'a tool')}:\n{turn.content}")
        elif turn.role == "user" and results:
            yield ChatTurn("user", _joined(*results, turn.content))
            results = []
        else:
            yield from _reported(results)
            yield write_calls(turn, PLAIN)
            results = []
    yield from _reported(results)


def _reported(results: Sequence[str]) -> Iterator[ChatTurn]:
    if results:
        yield ChatTurn("user", _joined(*results))


def write_calls(turn: ChatTurn, form: ToolFormat) -> ChatTurn:
    """The turn with its calls as text, as the model would have written them."""
    if not turn.tool_calls:
        return replace(turn, tool_calls=())
    calls = [
        replace(call, arguments=written_arguments(read_arguments(call.arguments))) for call in turn.tool_calls
    ]
    return replace(turn, content=f"{turn.content}\n{form.write(calls)}".lstrip("\n"), tool_calls=())


def _joined(*texts: str) -> str:
    return "\n\n".join(texts)


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def one_call_a_turn(turns: Sequence[ChatTurn]) -> list[ChatTurn]:
    """The same conversation, as if the model had made its calls one after the other.

    Each call is followed by its result. Results that belong to no call of the message before them stay
    where they are, behind the others.
    """
    unfolded: list[ChatTurn] = []
    position = 0
    while position < len(turns):
        turn = turns[position]
        position += 1
        results: list[ChatTurn] = []
        while len(turn.tool_calls) > 1 and position < len(turns) and turns[position].role == "tool":
            results.append(turns[position])
            position += 1
        unfolded += _unfolded(turn, results)
    return unfolded


def _unfolded(turn: ChatTurn, results: Sequence[ChatTurn]) -> Iterator[ChatTurn]:
    if len(turn.tool_calls) <= 1:
        yield turn
        return
    called = {call.id for call in turn.tool_calls}
    for index, call in enumerate(turn.tool_calls):
        yield replace(turn, content="" if index else turn.content, tool_calls=(call,))
        yield from (result for result in results if result.tool_call_id == call.id)
    yield from (result for result in results if result.tool_call_id not in called)


_NAME, _ARGUMENT, _RESULT = "find_probe", "probe_argument", "probe result"
INSTRUCTION = "probe instruction"

_QUESTION = {"role": "user", "content": "probe question"}
_CALL = {"name": _NAME, "arguments": {_ARGUMENT: "probe value"}}
_RAW = RawArguments(f'{{"{_ARGUMENT}": "probe val')


def _calls(count: int, call: Mapping[str, Any] = _CALL) -> list[Mapping[str, Any]]:
    ids = [f"call_probe{index}" for index in range(count)]
    calls = [{"id": call_id, "type": "function", "function": call} for call_id in ids]
    results = [{"role": "tool", "content": _RESULT, "tool_call_id": call_id} for call_id in ids]
    return [_QUESTION, {"role": "assistant", "content": "", "tool_calls": calls}, *results]


TOOLS: list[Mapping[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "probe tool",
            "parameters": {"type": "object", "properties": {"probe_parameter": {"type": "string"}}},
        },
    }
]
CONVERSATION = _calls(1)
SEVERAL_CALLS = _calls(2)
CUT_CALL = _calls(1, {"name": _NAME, "arguments": _RAW})
INSTRUCTED: list[Mapping[str, Any]] = [{"role": "system", "content": INSTRUCTION}, _QUESTION]

_WRITTEN_CALL = re.compile(
    rf'(<tool_call>\s*)?\{{\s*"name"\s*:\s*"{_NAME}"\s*,\s*"(arguments|parameters)"\s*:\s*\{{\s*"{_ARGUMENT}"'
)


def takes_raw_arguments(rendered: str) -> bool:
    """Whether the rendered CUT_CALL holds its arguments unchanged."""
    return f": {_RAW}" in rendered


def find_format(rendered: str) -> ToolFormat | None:
    """The format of calls in the rendered CONVERSATION and TOOLS.

    None: the template leaves out the tool, its call or its result, or writes calls in no format that is
    known here.
    """
    call = _WRITTEN_CALL.search(rendered)
    if call is None or "probe_parameter" not in rendered or _RESULT not in rendered:
        return None
    tag, key = call.groups()
    return TAGGED[key] if tag else BARE[key]
