"""Tools that a model may call, and its calls."""

from __future__ import annotations

from dataclasses import dataclass


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
