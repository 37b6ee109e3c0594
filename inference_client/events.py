"""The results of a generation: the events of a stream, and the whole answer that they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from inference_client.errors import ProtocolError
from inference_client.options import Message, ToolCall, ToolCallDelta


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log probability of a token as the model computed it: before bias, penalties, temperature and
    constraint.
    """

    token_id: int
    """The id of the token."""
    token: str
    """Its text; U+FFFD stands for bytes that are only a part of a character."""
    bytes: bytes
    """Its exact bytes; empty for control tokens."""
    logprob: float
    """Natural logarithm of its probability, 0 or less."""
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens at this position, likeliest first, as many as requested; their own `top` is
    empty."""


@dataclass(frozen=True, slots=True)
class EffectiveSampling:
    """The sampling options in effect, defaults included; `GenerateOptions` has their ranges."""

    temperature: float = 0.0
    """0: greedy decoding."""
    top_p: float = 0.0
    """Nucleus mass."""
    top_k: int = 0
    """0 or less: off."""
    min_p: float = 0.0
    """0: off."""
    frequency_penalty: float = 0.0
    """0: off."""
    presence_penalty: float = 0.0
    """0: off."""
    repetition_penalty: float = 0.0
    """1: off."""
    seed: int = 0
    """The seed of the request, or a random one. The seeds of further choices are derived from it."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """The number that was added to the logit of each token id."""


@dataclass(frozen=True, slots=True)
class Report:
    """The parameters in effect. A service that does not know reports yet sends one of zeroes."""

    ignored_parameters: tuple[str, ...] = ()
    """Fields of the request that had no effect, by path in the protocol: `stopping.include_stop`. A field
    that the service does not know is reported by its number: `sampling.field 99`."""
    sampling: EffectiveSampling = field(default_factory=EffectiveSampling)
    """The sampling options in effect."""
    max_tokens: int = 0
    """The token limit in effect, for each choice; 1 or more."""
    batch_size: int = 0
    """Generations in the engine when this one began there, itself included; 0: it did not begin."""
    queue_estimate_ms: float = 0.0
    """Estimated wait of a new request, in milliseconds; only in a validation."""


class FinishReason(StrEnum):
    """Why a choice ended."""

    STOP = "stop"
    """The model ended the text, or a stop sequence or stop token ended it."""
    LENGTH = "length"
    """The token limit or the deadline was reached."""
    CONTENT_FILTER = "content_filter"
    """The content filter cut the text."""
    TOOL_CALLS = "tool_calls"
    """The model called tools."""
    UNKNOWN = "unknown"
    """A reason that this version of the client does not know."""

    __str__ = str.__str__


class StopCause(StrEnum):
    """The exact cause behind a `FinishReason`."""

    END_OF_SEQUENCE = "end_of_sequence"
    """The model produced its end-of-sequence token."""
    STOP_SEQUENCE = "stop_sequence"
    """A stop sequence ended the text."""
    STOP_TOKEN = "stop_token"  # noqa: S105 - a token of text
    """A stop token ended the text."""
    MAX_TOKENS = "max_tokens"
    """`max_tokens` was reached."""
    DEADLINE = "deadline"
    """The service ended the text just before the deadline of the call."""
    CONTENT_FILTER = "content_filter"
    """A rule of the content filter matched."""
    TOOL_CALLS = "tool_calls"
    """The model called as many tools as the request allows."""
    UNKNOWN = "unknown"
    """No cause, or one that this version of the client does not know."""

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine processed them."""

    prompt_tokens: int
    """Tokens of the prompt, counted once for any number of choices."""
    completion_tokens: int
    """Generated tokens of all choices, also end-of-sequence tokens and tokens that a stop removed."""
    cached_tokens: int | None
    """Prompt tokens that were reused from the KV cache; None: the engine does not report it."""

    @property
    def total_tokens(self) -> int:
        """Prompt and output together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations of the phases of a request, in milliseconds, measured by the service."""

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
    """The request was admitted. It is the first event, and comes once."""

    request_id: str
    """The request id in the log of the service."""
    model: str
    """The served model id, also when the request used an alias."""
    created: int
    """Seconds since the Unix epoch at which the request was admitted."""
    prompt_tokens: int
    """Length of the prompt in tokens."""
    ignored_parameters: tuple[str, ...] = ()
    """Fields of the request that have no effect, as in the report at the end."""


class Delta(NamedTuple):
    """New output of one choice since its last delta."""

    # A tuple takes a third of the time to make that the other events take, and there is one every few tokens.

    choice_index: int
    """Index of the choice, counted from 0."""
    text: str
    """New text in whole Unicode code points; may be empty."""
    token_ids: tuple[int, ...]
    """Ids of the tokens that this delta completes, if the engine reports them."""
    token_count: int
    """Number of tokens that this delta completes."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of `token_ids`, if requested."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    """New parts of tool calls. The text of a call is not in `text`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice ended. It comes once for each choice."""

    choice_index: int
    """Index of the choice, counted from 0."""
    reason: FinishReason
    """Why the choice ended."""
    cause: StopCause
    """The exact cause behind the reason."""
    stop_sequence: str | None = None
    """The stop sequence that ended the choice, if one did."""
    stop_token_id: int | None = None
    """The end-of-sequence or stop token that ended the choice, if one did."""
    filter_rule: str | None = None
    """The rule of the content filter that ended the choice, if one did."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of the whole request. It is the last event, and comes once."""

    usage: Usage
    """Token counts."""
    timings: Timings
    """Durations."""
    report: Report = field(default_factory=Report)
    """The parameters in effect."""


Event = Started | Delta | Finished | Summary


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole answer to a prompt."""

    index: int
    """Counted from 0."""
    text: str
    """The generated text."""
    token_ids: tuple[int, ...]
    """Ids of the generated tokens, if the engine reports them."""
    token_count: int
    """Number of generated tokens."""
    finished: Finished
    """The event that ended the choice."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of `token_ids`, if requested."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The tools that the model called."""

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        return self.finished.reason

    @property
    def message(self) -> Message:
        """The choice as the next turn of the conversation."""
        return Message("assistant", self.text, self.tool_calls)


@dataclass(frozen=True, slots=True)
class Generation:
    """The whole answer to one request."""

    request_id: str
    """The request id in the log of the service."""
    model: str
    """The served model id, also when the request used an alias."""
    created: int
    """Seconds since the Unix epoch at which the request was admitted."""
    choices: tuple[Choice, ...]
    """The choices in the order of their index; empty only for a request with `validate_only`."""
    usage: Usage
    """Token counts."""
    timings: Timings
    """Durations."""
    report: Report = field(default_factory=Report)
    """The parameters in effect."""
    rate_limits: Mapping[str, str] = field(default_factory=dict)
    """The `x-ratelimit-` metadata of the reply: limit, remaining and reset of the key's quotas."""

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the model called in the first choice."""
        return self.choices[0].tool_calls

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first choice ended."""
        return self.choices[0].finished.reason


class GenerationFold:
    """Collects the events of one whole stream, whose order is checked already, into a `Generation`."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._deltas: dict[int, list[Delta]] = {}
        self._finished: dict[int, Finished] = {}
        self._summary: Summary | None = None

    def add(self, event: Event) -> None:
        """Add the next event."""
        if isinstance(event, Delta):
            self._deltas.setdefault(event.choice_index, []).append(event)
        elif isinstance(event, Finished):
            self._finished[event.choice_index] = event
        elif isinstance(event, Started):
            self._started = event
        else:
            self._summary = event

    def result(self) -> Generation:
        """Return the answer, after the summary was added."""
        if self._started is None or self._summary is None:
            raise ProtocolError("The stream has no beginning or no end.")
        return Generation(
            request_id=self._started.request_id,
            model=self._started.model,
            created=self._started.created,
            choices=tuple(self._choice(self._finished[index]) for index in sorted(self._finished)),
            usage=self._summary.usage,
            timings=self._summary.timings,
            report=self._summary.report,
        )

    def _choice(self, finished: Finished) -> Choice:
        deltas = self._deltas.get(finished.choice_index, [])
        return Choice(
            index=finished.choice_index,
            text="".join(delta.text for delta in deltas),
            token_ids=tuple(token for delta in deltas for token in delta.token_ids),
            token_count=sum(delta.token_count for delta in deltas),
            finished=finished,
            logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
            tool_calls=_tool_calls(piece for delta in deltas for piece in delta.tool_calls),
        )


def _tool_calls(pieces: Iterable[ToolCallDelta]) -> tuple[ToolCall, ...]:
    firsts: dict[int, ToolCallDelta] = {}
    arguments: dict[int, list[str]] = {}
    for piece in pieces:
        firsts.setdefault(piece.index, piece)
        arguments.setdefault(piece.index, []).append(piece.arguments)
    return tuple(
        ToolCall(first.id or "", first.name or "", "".join(arguments[index]))
        for index, first in sorted(firsts.items())
    )
