"""Conversations, the tools that a model may call, and its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lodestream.inference.v1 import generation_pb2

from inference_client.fields import JsonSchemaSource, schema_text, set_field

Role = Literal["system", "user", "assistant", "tool"]

_ROLES = {
    "system": generation_pb2.ROLE_SYSTEM,
    "user": generation_pb2.ROLE_USER,
    "assistant": generation_pb2.ROLE_ASSISTANT,
    "tool": generation_pb2.ROLE_TOOL,
}
_CALL_KEYS = ("id", "name", "arguments")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    """Who speaks; `tool`: the result of a call."""
    content: str = ""
    """The text of the turn."""
    tool_calls: Sequence[ToolCall | Mapping[str, str]] = ()
    """Only with the role assistant: the calls of the turn; a mapping has the keys of a `ToolCall`."""
    tool_call_id: str | None = None
    """Only with the role tool: the id of the call that this is the result of."""


Messages = Sequence[Message | Mapping[str, Any]]
"""A conversation, oldest turn first; a mapping has the keys of a `Message`, of which it needs `role`, and
`content` where it has no `tool_calls`."""


def write_messages(chat: generation_pb2.ChatInput, messages: Messages) -> None:
    """Add the turns of a conversation.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a role is unknown, a mapping has other keys than it may, or a value is not text.

    """
    for number, message in enumerate(messages):
        name = f"messages[{number}]"
        _write_message(chat.messages.add(), _as_message(message, name), name)


def _as_message(message: Message | Mapping[str, Any], name: str) -> Message:
    if isinstance(message, Message):
        return message
    needed = {"role"} if message.get("tool_calls") else {"role", "content"}
    if not needed <= set(message) <= set(Message.__dataclass_fields__):
        raise ValueError(
            f"{name} must have the keys role and content, and may have tool_calls and tool_call_id."
        )
    return Message(**message)


def _write_message(turn: generation_pb2.ChatMessage, message: Message, name: str) -> None:
    if message.role not in _ROLES:
        raise ValueError(f"{name}.role must be one of {', '.join(_ROLES)}.")
    turn.role = _ROLES[message.role]
    set_field(turn, "content", message.content, f"{name}.content")
    for number, call in enumerate(message.tool_calls or ()):
        _write_call(turn.tool_calls.add(), call, f"{name}.tool_calls[{number}]")
    set_field(turn, "tool_call_id", message.tool_call_id, f"{name}.tool_call_id")


def _write_call(message: generation_pb2.ToolCall, call: ToolCall | Mapping[str, str], name: str) -> None:
    if isinstance(call, ToolCall):
        values: Mapping[str, str] = {key: getattr(call, key) for key in _CALL_KEYS}
    elif set(call) == set(_CALL_KEYS):
        values = call
    else:
        raise ValueError(f"{name} must have the keys {', '.join(_CALL_KEYS)}, and no other.")
    for key, value in values.items():
        set_field(message, key, value, f"{name}.{key}")


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
