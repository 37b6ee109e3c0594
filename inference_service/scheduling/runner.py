"""Runs one request in the engine: its choices run side by side, and their events are merged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from inference_service.backends.base import Backend, EngineRequestError, Steps
from inference_service.backends.types import EngineRequest, EngineStep
from inference_service.output.events import (
    ChoiceEvent,
    Delta,
    Event,
    Finished,
    Report,
    Started,
    StopCause,
    Summary,
    Timings,
    Usage,
)
from inference_service.output.pipeline import ChoicePipeline
from inference_service.scheduling.admission import Deadline, DeadlinePassed, Permit
from lodestream_common.pacing import Interval, no_interval

_SENDING_SECONDS = 0.05
"""Before the deadline, from which on no tokens are gathered any more."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request to generate from: checked against the model, with the prompts as tokens."""

    request_id: str
    model: str
    """The served id."""
    prompt_tokens: int
    """The tokens of all prompts, each counted once."""
    choices: Sequence[ChoicePlan]
    """By index; empty: the request only validates."""
    deadline: Deadline | None
    report: Report
    blocked_by: str | None = None
    """The rule of the content filter that blocks the prompt; None: no rule does."""

    @property
    def permits(self) -> int:
        """The number of permits that it takes: one for each choice that is generated."""
        return 0 if self.blocked_by is not None else len(self.choices)


@dataclass(frozen=True, slots=True)
class ChoicePlan:
    """The usage of one choice."""

    index: int
    engine: EngineRequest
    pipeline: ChoicePipeline
    opening: str = ""
    """Text before the generated one."""
    repeats_prompt: bool = False
    """It has the same prompt as the choice before it."""


@dataclass(slots=True)
class Progress:
    """The tokens of all choices of a request so far, and their times in seconds of the monotonic clock."""

    arrived: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    completion_tokens: int = 0
    cached_tokens: int | None = None
    """None as long as no engine has reported it."""
    batch_size: int = 0
    """Generations that ran when the first choice was admitted, this one included."""

    def on_admitted(self, running: int) -> None:
        if self.admitted is None:
            self.admitted = time.monotonic()
            self.batch_size = running

    def on_step(self, step: EngineStep, *, counts_cached: bool) -> None:
        self.completion_tokens += step.token_count
        if step.cached_tokens is not None and counts_cached:
            self.cached_tokens = (self.cached_tokens or 0) + step.cached_tokens
        if step.token_count:
            self.last_token = time.monotonic()
            if self.first_token is None:
                self.first_token = self.last_token

    @property
    def timings(self) -> Timings:
        admitted = self.admitted or self.arrived
        first = self.first_token or admitted
        last = self.last_token or first
        return Timings(
            queue_ms=(admitted - self.arrived) * 1e3,
            prefill_ms=(first - admitted) * 1e3,
            decode_ms=(last - first) * 1e3,
            time_to_first_token_ms=(first - self.arrived) * 1e3,
        )


class Generation:
    """Runs one request on the engine and reports what happens as events.

    Args:
        backend: the engine.
        permit: admits the choices.
        request: what to generate.
        progress: is kept up to date.
        interval: seconds for which a choice gathers tokens after a batch of events, now.

    """

    def __init__(
        self,
        backend: Backend,
        permit: Permit,
        request: GenerationRequest,
        progress: Progress,
        interval: Interval = no_interval,
    ) -> None:
        self._backend = backend
        self._permit = permit
        self._request = request
        self._progress = progress
        self._interval = interval

    @property
    def usage(self) -> Usage:
        """Tokens so far, also when the generation was cut off."""
        progress, request = self._progress, self._request
        # A request that runs nothing reads nothing from the cache either.
        cached = progress.cached_tokens if request.choices else 0
        return Usage(request.prompt_tokens, progress.completion_tokens, cached)

    @property
    def causes(self) -> list[StopCause]:
        """The causes for which choices ended so far."""
        if self._request.blocked_by is not None:
            return [StopCause.CONTENT_FILTER]
        return [finished.cause for finished in self._ended()]

    @property
    def filter_rules(self) -> set[str]:
        """The rules of the content filter that cut something."""
        rules = {self._request.blocked_by, *(finished.filter_rule for finished in self._ended())}
        return {rule for rule in rules if rule is not None}

    async def batches(self) -> AsyncGenerator[Sequence[Event], None]:
        """The events of this generation in the order of the stream's grammar, those together that are ready
        at once.

        `Started` comes alone, and the summary with the last end of a choice. Closing the iterator frees the
        engine.

        Raises:
            DeadlinePassed: before there was any token to return.
            BackendError: the engine failed.

        """
        if self._request.blocked_by is not None or not self._request.choices:
            yield [self._started()]
            yield [*self._blocked(), self._summary()]
            return
        is_started, running = False, len(self._request.choices)
        async with aclosing(self._choices()) as batches:
            async for batch in batches:
                if not is_started:
                    is_started = True
                    yield [self._started()]
                running -= sum(isinstance(event, Finished) for event in batch)
                if not running:
                    yield [*batch, self._summary()]
                elif batch:
                    yield batch

    def _choices(self) -> AsyncGenerator[list[ChoiceEvent], None]:
        streams = [self._run(plan) for plan in self._request.choices]
        return streams[0] if len(streams) == 1 else merge(streams)

    async def _run(self, plan: ChoicePlan) -> AsyncGenerator[list[ChoiceEvent], None]:
        """The events of one choice, in batches; the first one comes with the permit and may be empty.

        Before the last batch the engine and the permit are released. Closing the iterator releases them, too.

        Raises:
            DeadlinePassed: before any choice of the request had a token to return.
            BackendError: the engine failed.

        """
        opening: list[ChoiceEvent] = [Delta(plan.index, plan.opening, (), 0)] if plan.opening else []
        try:
            async with self._permit() as running:
                self._progress.on_admitted(running)
                first, opening = opening, []
                yield first
                async with aclosing(self._backend.generate(plan.engine)) as steps:
                    has_output, batch = False, await self._advance(plan, steps)
                    while plan.pipeline.finished is None:
                        yield batch
                        has_output = has_output or bool(batch)
                        batch = await self._advance(plan, steps, self._pause(plan) if has_output else 0.0)
            yield batch
        except DeadlinePassed:
            if not self._progress.completion_tokens:
                raise
            yield [*opening, *plan.pipeline.cut(StopCause.DEADLINE)]

    def _pause(self, plan: ChoicePlan) -> float:
        """Seconds in which the engine gathers tokens for the next batch of a choice."""
        if plan.pipeline.may_end_choice:
            # The end is never held, and only the tokens show it.
            return 0.0
        pause = self._interval()
        if pause and self._request.deadline is not None:
            # What is ready by the deadline is still sent.
            left = self._request.deadline.at - time.monotonic() - _SENDING_SECONDS
            return max(0.0, min(pause, left))
        return pause

    async def _advance(self, plan: ChoicePlan, steps: Steps, pause: float = 0.0) -> list[ChoiceEvent]:
        # A generator that has not begun takes no value.
        next_step = steps.asend(pause) if pause else steps.__anext__()
        deadline = self._request.deadline
        try:
            step = await (next_step if deadline is None else deadline.bound(next_step))
        except StopAsyncIteration:
            raise EngineRequestError("the engine ended a request without finishing it") from None
        self._progress.on_step(step, counts_cached=not plan.repeats_prompt)
        return list(plan.pipeline.on_step(step))

    def _ended(self) -> Iterator[Finished]:
        ends = (plan.pipeline.finished for plan in self._request.choices)
        return (finished for finished in ends if finished is not None)

    def _started(self) -> Started:
        request = self._request
        return Started(
            request.request_id, request.model, int(time.time()), request.prompt_tokens, request.report.ignored
        )

    def _blocked(self) -> list[Finished]:
        rule = self._request.blocked_by
        return [Finished(p.index, StopCause.CONTENT_FILTER, filter_rule=rule) for p in self._request.choices]

    def _summary(self) -> Summary:
        report = replace(self._request.report, batch_size=self._progress.batch_size)
        return Summary(self.usage, self._progress.timings, report)


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T
    taken: asyncio.Future[None]
    """Done once the value was taken."""


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None
    """Why the stream ended; None: it was over."""


_Items = asyncio.Queue["_Item[T] | _End"]


async def merge(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yield the values of all streams, as they come.

    A stream is asked for its next value only once the last one was taken. The first exception of a stream
    ends the others. Closing closes them all, each in a task of its own: the streams release what they hold
    even if the task that closes is cancelled meanwhile.
    """
    items: _Items[T] = asyncio.Queue()
    readers = [asyncio.create_task(_read_into(items, stream)) for stream in streams]
    left = len(readers)
    try:
        while left:
            item = await items.get()
            if isinstance(item, _Item):
                yield item.value
                if not item.taken.done():
                    item.taken.set_result(None)
            elif item.error is not None:
                raise item.error
            else:
                left -= 1
    finally:
        for reader in readers:
            reader.cancel()
        if readers:
            await asyncio.wait(readers)


async def _read_into(items: _Items[T], stream: AsyncGenerator[T, None]) -> None:
    error: Exception | None = None
    try:
        async with aclosing(stream):
            async for value in stream:
                taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                items.put_nowait(_Item(value, taken))
                await taken
    except Exception as caught:
        error = caught
    items.put_nowait(_End(error))
