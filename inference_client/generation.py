"""The whole answer: what `generate` returns, and what `collect` makes of a stream."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from inference_client.conversation import Message, ToolCall, ToolCallDelta
from inference_client.errors import ProtocolError
from inference_client.events import (
    Delta,
    Event,
    Finished,
    FinishReason,
    Report,
    Started,
    Summary,
    Timings,
    TokenLogprob,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole generated text."""

    index: int
    """Counted from 0."""
    text: str
    """The text."""
    token_ids: tuple[int, ...]
    """Ids of the tokens behind the text, where the engine could name them."""
    token_count: int
    """How many tokens stand behind the text."""
    finished: Finished
    """How it ended."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of `token_ids`, where they were asked for."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The tools that the model called."""

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        return self.finished.reason

    @property
    def message(self) -> Message:
        """The turn that it adds to a conversation."""
        return Message("assistant", self.text, self.tool_calls)


@dataclass(frozen=True, slots=True)
class Generation:
    """The whole answer to one request."""

    request_id: str
    """The id under which the service knows the request."""
    model: str
    """The served model id, also when the request used an alias."""
    created: int
    """Seconds since the Unix epoch at which the request was admitted."""
    choices: tuple[Choice, ...]
    """The choices by index; none only where the request said `validate_only`."""
    usage: Usage
    """Token counts."""
    timings: Timings
    """Where the time went."""
    report: Report = field(default_factory=Report)
    """What became of the request's parameters."""

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
    """Folds the events of one whole stream, which keeps the grammar, into a `Generation`."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._deltas: dict[int, list[Delta]] = {}
        self._finished: dict[int, Finished] = {}
        self._summary: Summary | None = None

    def add(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, Delta):
            self._deltas.setdefault(event.choice_index, []).append(event)
        elif isinstance(event, Finished):
            self._finished[event.choice_index] = event
        elif isinstance(event, Started):
            self._started = event
        else:
            self._summary = event

    def result(self) -> Generation:
        """The answer, once the summary is in."""
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
