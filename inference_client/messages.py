"""Conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lodestream.inference.v1 import generation_pb2

from inference_client.fields import set_field
from inference_client.tools import ToolCall

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
