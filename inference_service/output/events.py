"""The events of a generation, and the log probabilities that they carry.

Their order is Started, then Delta and Finished, then Summary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from inference_service.backends.types import Sampling, TokenLogprob
from inference_service.prompt.conversation import ToolCallDelta


class FinishReason(Enum):
    """Why a choice ended, in the words of the public API."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    TOOL_CALLS = "tool_calls"


class StopCause(Enum):
    """The finer cause behind a finish reason."""

    END_OF_SEQUENCE = "end_of_sequence"
    STOP_SEQUENCE = "stop_sequence"
    STOP_TOKEN = "stop_token"  # noqa: S105  a token of text
    MAX_TOKENS = "max_tokens"
    DEADLINE = "deadline"
    CONTENT_FILTER = "content_filter"
    TOOL_CALLS = "tool_calls"
    """As many tools as allowed were called."""

    @property
    def reason(self) -> FinishReason:
        return _REASONS.get(self, FinishReason.STOP)


_REASONS = {
    StopCause.MAX_TOKENS: FinishReason.LENGTH,
    StopCause.DEADLINE: FinishReason.LENGTH,
    StopCause.CONTENT_FILTER: FinishReason.CONTENT_FILTER,
    StopCause.TOOL_CALLS: FinishReason.TOOL_CALLS,
}


@dataclass(frozen=True, slots=True)
class Started:
    """The request was admitted."""

    request_id: str
    model: str
    created: int
    """Seconds since the Unix epoch."""
    prompt_tokens: int
    ignored: Sequence[str] = ()
    """Parameters of the request that have no effect."""


@dataclass(frozen=True, slots=True)
class Delta:
    """New output of one choice, never cumulative."""

    index: int
    text: str
    """Whole code points, never part of a stop sequence."""
    token_ids: Sequence[int]
    """Tokens whose text is complete with this delta."""
    token_count: int
    """How many those are; more than `token_ids` only where they cannot or must not be named."""
    logprobs: Sequence[ScoredToken] = ()
    """If requested: one for each of `token_ids`."""
    tool_calls: Sequence[ToolCallDelta] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.token_count or self.tool_calls)


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice ended."""

    index: int
    cause: StopCause
    stop_sequence: str | None = None
    stop_token_id: int | None = None
    filter_rule: str | None = None
    """Name of the content filter's rule that was met."""
    calls_tools: bool = False
    """The choice holds a whole tool call."""
    cuts_call: bool = False
    """It was cut within a tool call, so it did not come to its end."""

    @property
    def reason(self) -> FinishReason:
        if self.cause.reason is not FinishReason.STOP:
            return self.cause.reason
        if self.cuts_call:
            return FinishReason.LENGTH
        return FinishReason.TOOL_CALLS if self.calls_tools else FinishReason.STOP


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine processed them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    """None: the engine does not report it."""


@dataclass(frozen=True, slots=True)
class Timings:
    """The durations of the stages, in milliseconds."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    time_to_first_token_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """The parameters that were used for a request, and those that had no effect."""

    sampling: Sampling
    logit_bias: Mapping[int, float]
    max_tokens: int
    """Of each choice; the most, where they differ."""
    ignored: Sequence[str] = ()
    batch_size: int = 0
    """Generations in the engine when this one entered it, itself included."""
    queue_estimate: float = 0.0
    """Seconds that a request would wait now; only where nothing is generated."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The last event of a generation."""

    usage: Usage
    timings: Timings
    report: Report


ChoiceEvent = Delta | Finished
Event = Started | Delta | Finished | Summary


class TokenNames(Protocol):
    """Gives the bytes and the text of tokens."""

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of a token; none for a control token."""
        ...

    def token_text(self, token_id: int) -> str:
        """A token as it may be shown; control tokens by their own names."""
        ...


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token and the natural logarithm of its probability."""

    token_id: int
    text: str
    """U+FFFD stands for bytes that are part of a character."""
    raw: bytes
    """Empty for a control token."""
    logprob: float
    top: Sequence[ScoredToken] = ()
    """The likeliest tokens at this place, likeliest first."""


def scored(names: TokenNames, logprobs: Iterable[TokenLogprob]) -> list[ScoredToken]:
    """Name the tokens of an engine's log probabilities."""
    return [
        _scored(names, entry.token_id, entry.logprob, [_scored(names, *pair) for pair in entry.top])
        for entry in logprobs
    ]


def _scored(names: TokenNames, token_id: int, logprob: float, top: Sequence[ScoredToken] = ()) -> ScoredToken:
    return ScoredToken(token_id, names.token_text(token_id), names.token_bytes(token_id), logprob, top)
