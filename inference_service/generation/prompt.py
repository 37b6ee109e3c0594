"""Conversations to prompts, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class PromptError(Exception):
    """Expected: the model's template refuses the conversation. The message is safe to send."""


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One message of a conversation."""

    role: str
    """`system`, `user`, `assistant`."""
    content: str


class ChatTemplate:
    def render(self, messages: Sequence[ChatTurn]) -> list[int]:
        raise NotImplementedError
