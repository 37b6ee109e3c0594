"""What a generation says while it runs. The grammar: Started, then Delta and Finished, then Summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class FinishReason(Enum):
    """Why a choice ended, in the words of the public API."""

    STOP = "stop"
    LENGTH = "length"


class StopCause(Enum):
    """The finer cause behind a finish reason."""

    END_OF_SEQUENCE = "end_of_sequence"
    STOP_SEQUENCE = "stop_sequence"
    STOP_TOKEN = "stop_token"  # noqa: S105  a token of text
    MAX_TOKENS = "max_tokens"
    DEADLINE = "deadline"

    @property
    def reason(self) -> FinishReason:
        if self in (StopCause.MAX_TOKENS, StopCause.DEADLINE):
            return FinishReason.LENGTH
        return FinishReason.STOP


@dataclass(frozen=True, slots=True)
class Started:
    """The request was admitted."""

    request_id: str
    model: str
    created: int
    """Seconds since the Unix epoch."""
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New output of one choice, never cumulative."""

    index: int
    text: str
    """Whole code points, never part of a stop sequence."""
    token_ids: Sequence[int]
    """Tokens whose text is complete with this delta."""
    token_count: int
    """How many those are; more than `token_ids` only where the engine cannot name them."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice ended."""

    index: int
    cause: StopCause
    stop_sequence: str | None = None
    stop_token_id: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine processed them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in milliseconds."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    time_to_first_token_ms: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The last word of a generation."""

    usage: Usage
    timings: Timings


ChoiceEvent = Delta | Finished
Event = Started | Delta | Finished | Summary
