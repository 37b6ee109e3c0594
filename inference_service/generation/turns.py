"""The messages of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from inference_service.generation.tools.types import ToolCall


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One message of a conversation."""

    role: str
    """One of the service's own role names (system, user, assistant, tool): templates build control tokens
    out of it."""
    content: str
    """Whatever the caller wrote; empty where the model only made calls."""
    tool_calls: Sequence[ToolCall] = ()
    """An assistant's: the calls that it made."""
    tool_call_id: str | None = None
    """A tool's: the call that this is the result of."""


class Ending(Enum):
    """How the prompt of a conversation ends."""

    ANSWER = "answer"
    """With the header of the assistant's next turn, where the template has one."""
    NOTHING = "nothing"
    """With the last message."""
    CONTINUE = "continue"
    """Within the last message, behind its text."""
