"""Tools in ordinary messages, for templates that know none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from inference_service.generation.tools.arguments import read_arguments, written_arguments
from inference_service.generation.tools.documents import tool_parameters
from inference_service.generation.tools.formats import PLAIN, ToolFormat
from inference_service.generation.tools.types import Tool
from inference_service.generation.turns import ChatTurn

_INSTRUCTIONS = """\
You can call these tools:
{tools}

To call a tool, answer with its name and arguments as one line of JSON, and nothing else:
{{"name": "<name of the tool>", "arguments": {{<arguments as its parameters describe them>}}}}
Write one such line for each call. The results come with the next message.
If no tool helps, answer in words."""


def fold_tools(turns: Sequence[ChatTurn], tools: Sequence[Tool], *, takes_system: bool) -> list[ChatTurn]:
    """A conversation without calls, results and tools: all three are text now.

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
