"""What a stream yields: `Started`, then any number of `Delta` and `Finished`, then one `Summary`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FinishReason(str, Enum):
    """Why a choice ended."""

    STOP = "stop"
    """Natural end, or a stop sequence or stop token was met."""
    LENGTH = "length"
    """The token limit or the deadline was reached."""
    CONTENT_FILTER = "content_filter"
    """The content filter cut the text."""
    TOOL_CALLS = "tool_calls"
    """The model called tools."""
    UNKNOWN = "unknown"
    """A reason that this version of the client has no name for."""

    __str__ = str.__str__


class StopCause(str, Enum):
    """The finer cause behind a `FinishReason`."""

    END_OF_SEQUENCE = "end_of_sequence"
    """The model produced its end-of-sequence token."""
    STOP_SEQUENCE = "stop_sequence"
    """A stop sequence was met."""
    STOP_TOKEN = "stop_token"  # noqa: S105 - a token of text
    """A stop token was met."""
    MAX_TOKENS = "max_tokens"
    """`max_tokens` was reached."""
    DEADLINE = "deadline"
    """The deadline of the call was about to pass."""
    UNKNOWN = "unknown"
    """No cause was given, or one that this version of the client has no name for."""

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine processed them."""

    prompt_tokens: int
    """Tokens of the prompt."""
    completion_tokens: int
    """Tokens generated, an end-of-sequence token and tokens cut by a stop sequence included."""
    cached_tokens: int
    """Prompt tokens found in the KV cache and not computed again."""

    @property
    def total_tokens(self) -> int:
        """Prompt and output together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in milliseconds, as the service measured it."""

    queue_ms: float
    """From arrival to admission."""
    prefill_ms: float
    """From admission to the first token."""
    decode_ms: float
    """From the first token to the last."""
    time_to_first_token_ms: float
    """From arrival to the first token (TTFT)."""


@dataclass(frozen=True, slots=True)
class Started:
    """The request was admitted. First, once."""

    request_id: str
    """The id under which the service knows the request."""
    model: str
    """The served model id, also when the request used an alias."""
    created: int
    """Seconds since the Unix epoch at which the request was admitted."""
    prompt_tokens: int
    """Length of the prompt in tokens."""


@dataclass(frozen=True, slots=True)
class Delta:
    """New output of one choice, never cumulative."""

    choice_index: int
    """Which choice, counted from 0."""
    text: str
    """New text: whole Unicode code points. May be empty."""
    token_ids: tuple[int, ...]
    """Ids of the tokens that this delta completes, where the engine could name them."""
    token_count: int
    """How many tokens this delta completes."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice ended. Once for each choice."""

    choice_index: int
    """Which choice, counted from 0."""
    reason: FinishReason
    """Why it ended."""
    cause: StopCause
    """The finer cause."""
    stop_sequence: str | None = None
    """The stop sequence that was met, if one was."""
    stop_token_id: int | None = None
    """The end-of-sequence or stop token that was met, if one was."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole request in numbers. Last, once."""

    usage: Usage
    """Token counts."""
    timings: Timings
    """Where the time went."""


Event = Started | Delta | Finished | Summary
