"""The data types of the content filter's rules."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Action(Enum):
    """The action on a match."""

    BLOCK = "block"
    """A prompt is not answered; output ends before the match."""
    REDACT = "redact"
    """The rule's replacement takes the place of the match."""


class Place(Enum):
    """The texts that a rule applies to."""

    PROMPT = "prompt"
    OUTPUT = "output"
    BOTH = "both"

    def includes(self, other: Place) -> bool:
        return self in (other, Place.BOTH)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, valid."""

    name: str
    order: int
    """Its place in the file. Of rules whose matches begin together the first one counts, blocks before
    redactions."""
    action: Action
    replacement: str
    """The replacement of a match, where the action is to redact."""
    place: Place
    keys: frozenset[str] | None
    """Names of the API keys that it applies to; None: all callers."""
    phrases: tuple[str, ...]
    """Texts, compared after folding."""
    patterns: tuple[str, ...]
    """Regular expressions that `regex.translate` takes, compared as they stand."""
    ignore_case: bool
    whole_word: bool
    """A match has no word character right before or after it."""


@dataclass(frozen=True, slots=True)
class Span:
    """The place of a match of a rule."""

    start: int
    end: int
    """Offset behind the last character."""
    rule: Rule

    @property
    def rank(self) -> tuple[int, bool, int]:
        """The sort key of spans: the one that begins first, blocks before redactions, then as in the file."""
        return self.start, self.rule.action is not Action.BLOCK, self.rule.order
