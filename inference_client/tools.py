"""Tools that a model may call, and its calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lodestream.inference.v1 import generation_pb2

from inference_client.fields import set_field
from inference_client.schema import JsonSchemaSource, schema_text

ToolChoiceMode = Literal["auto", "none", "required"]
"""`auto`: the model decides; `none`: it calls no tool; `required`: it calls one or more."""

_MODES = {
    "auto": generation_pb2.TOOL_CHOICE_MODE_AUTO,
    "none": generation_pb2.TOOL_CHOICE_MODE_NONE,
    "required": generation_pb2.TOOL_CHOICE_MODE_REQUIRED,
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    """1 to 64 characters of [A-Za-z0-9_-]."""
    description: str = ""
    """What it does, for the model to read."""
    parameters: JsonSchemaSource | None = None
    """JSON Schema of the arguments, which are an object. None: it takes no arguments."""
    strict: bool | None = None
    """Where a call is enforced: refuse a schema that cannot be enforced exactly, instead of loosening it."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The model calls this tool."""

    name: str
    """One of the tools of the request."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made."""

    id: str
    """Ties the result to the call: it is the `tool_call_id` of the message that brings the result."""
    name: str
    """The tool's name."""
    arguments: str
    """A JSON object as text. Cut short where the choice ended with `FinishReason.LENGTH`."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: first its id and name, then its arguments, piece by piece."""

    index: int
    """Which call of the choice, counted from 0."""
    id: str | None
    """Set in the first piece of a call."""
    name: str | None
    """Set in the first piece of a call."""
    arguments: str
    """New text of the arguments. May be empty."""


def write_tools(
    chat: generation_pb2.ChatInput,
    tools: Sequence[Tool] | None,
    tool_choice: ToolChoiceMode | ToolChoice | None,
    parallel_tool_calls: bool | None,
) -> None:
    """Fill the part of a conversation in that is about tools.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a mode is unknown, or a value is not text, or not JSON.

    """
    for number, tool in enumerate(tools or ()):
        _write_tool(chat.tools.add(), tool, f"tools[{number}]")
    if isinstance(tool_choice, ToolChoice):
        chat.tool_choice.mode = generation_pb2.TOOL_CHOICE_MODE_NAMED
        set_field(chat.tool_choice, "name", tool_choice.name, "tool_choice.name")
    elif tool_choice is not None:
        if tool_choice not in _MODES:
            raise ValueError(f"tool_choice must be a ToolChoice, or one of {', '.join(_MODES)}.")
        chat.tool_choice.mode = _MODES[tool_choice]
    set_field(chat, "parallel_tool_calls", parallel_tool_calls)


def _write_tool(message: generation_pb2.Tool, tool: Tool, name: str) -> None:
    if not isinstance(tool, Tool):
        raise TypeError(f"{name} must be a Tool.")
    set_field(message, "name", tool.name, f"{name}.name")
    set_field(message, "description", tool.description, f"{name}.description")
    if tool.parameters is not None:
        parameters = f"{name}.parameters"
        set_field(message, "parameters", schema_text(tool.parameters, parameters), parameters)
    set_field(message, "strict", tool.strict, f"{name}.strict")
