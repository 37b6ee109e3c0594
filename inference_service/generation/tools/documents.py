"""Messages and tools in the form that chat templates are written for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from inference_service.generation.sealer import Sealer
from inference_service.generation.tools.arguments import RawArguments, read_arguments, written_arguments
from inference_service.generation.tools.types import Tool, ToolCall
from inference_service.generation.turns import ChatTurn

_SCHEMA_WORDS = frozenset(
    re.findall(
        r"\S+",
        "$defs $ref additionalProperties allOf anyOf array boolean const default definitions description"
        " enum exclusiveMaximum exclusiveMinimum format integer items maxItems maxLength maximum minItems"
        " minLength minimum multipleOf not null nullable number object oneOf pattern prefixItems properties"
        " required string title type uniqueItems",
    )
)
"""Templates compare these with words of their own, so they are never sealed: no caller made them up."""


def tool_parameters(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, also where it takes none."""
    return dict(tool.parameters) if tool.parameters else {"type": "object", "properties": {}}


def written_texts(turns: Sequence[ChatTurn], tools: Sequence[Tool]) -> Iterator[str]:
    """Everything in a conversation that callers wrote."""
    for turn in turns:
        yield turn.content
        yield turn.tool_call_id or ""
        for call in turn.tool_calls:
            yield f"{call.id} {call.name} {written_arguments(read_arguments(call.arguments))}"
    for tool in tools:
        yield f"{tool.name} {tool.description} {_dumped(tool_parameters(tool))}"


def message_document(turn: ChatTurn, sealer: Sealer) -> dict[str, Any]:
    """One message. Templates ask which members there are, so none is there without need."""
    message: dict[str, Any] = {"role": turn.role, "content": sealer.text(turn.content)}
    if turn.tool_calls:
        message["tool_calls"] = [_call_document(call, sealer) for call in turn.tool_calls]
    if turn.tool_call_id is not None:
        message["tool_call_id"] = sealer.text(turn.tool_call_id)
    return message


def tool_document(tool: Tool, sealer: Sealer) -> dict[str, Any]:
    """One tool, as the public API has it."""
    function = {
        "name": sealer.text(tool.name),
        "description": sealer.text(tool.description),
        "parameters": sealer.value(tool_parameters(tool), _SCHEMA_WORDS),
    }
    return {"type": "function", "function": function}


def _call_document(call: ToolCall, sealer: Sealer) -> dict[str, Any]:
    found = read_arguments(call.arguments)
    arguments: object = sealer.value(found)
    if isinstance(found, RawArguments):
        arguments = RawArguments(arguments)
    function = {"name": sealer.text(call.name), "arguments": arguments}
    return {"id": sealer.text(call.id), "type": "function", "function": function}


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
