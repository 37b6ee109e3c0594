"""What the service asks a content policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inference_service.generation.filter.output import Match, OutputFilter


@dataclass(frozen=True, slots=True)
class PromptVerdict:
    """What becomes of a prompt."""

    texts: tuple[str, ...]
    """The texts to go on with, as many as were asked about: each as it was, or redacted."""
    blocked: Match | None = None
    """The rule that forbids the prompt; `texts` must not be used then."""
    redacted: frozenset[str] = frozenset()
    """Names of the rules that changed a text."""


class ContentPolicy(Protocol):
    """Decides what may be asked and answered. Asked by many threads at once."""

    def check_prompt(self, texts: Sequence[str], key_name: str) -> PromptVerdict:
        """Judge the texts of a prompt, each by itself, for the caller whose API key has this name."""
        ...

    def refresh(self) -> None:
        """Look whether the rules have changed. Quick; new rules may count a little later."""
        ...

    def output_filter(self, key_name: str) -> OutputFilter | None:
        """Start a filter for one choice; None where no rule is about this caller's output."""
        ...
