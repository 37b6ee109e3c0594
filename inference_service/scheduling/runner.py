"""One request in the engine: its choices run side by side and their events are merged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from inference_service.backends.base import Backend, EngineRequestError
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


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to generate, once the prompts are tokens: it cannot be wrong any more."""

    request_id: str
    model: str
    """The served id."""
    prompt_tokens: int
    """Of all prompts, each counted once."""
    choices: Sequence[ChoicePlan]
    """By index. None: the request only validates."""
    deadline: Deadline | None
    report: Report
    blocked_by: str | None = None
    """The rule of the content filter that the prompt met."""

    @property
    def permits(self) -> int:
        """How many it takes: one for each choice that is generated."""
        return 0 if self.blocked_by is not None else len(self.choices)


class Generation:
    """Runs one request on the engine and says what happens as events."""

    def __init__(
        self, backend: Backend, permit: Permit, request: GenerationRequest, watch: Stopwatch
    ) -> None:
        self._request = request
        self._progress = Progress(watch)
        self._runs = [
            ChoiceRun(plan, backend, permit, request.deadline, self._progress) for plan in request.choices
        ]

    @property
    def usage(self) -> Usage:
        """Tokens so far, also when the generation was cut off."""
        progress = self._progress
        # A request that runs nothing takes nothing out of the cache either.
        cached = progress.cached_tokens if self._runs else 0
        return Usage(self._request.prompt_tokens, progress.completion_tokens, cached)

    @property
    def causes(self) -> list[StopCause]:
        """How the choices ended that did."""
        if self._request.blocked_by is not None:
            return [StopCause.CONTENT_FILTER]
        return [finished.cause for finished in self._ended()]

    @property
    def choices(self) -> int:
        """How many there are to be."""
        return len(self._runs)

    @property
    def filter_rules(self) -> set[str]:
        """The rules of the content filter that cut something."""
        rules = {self._request.blocked_by, *(finished.filter_rule for finished in self._ended())}
        return {rule for rule in rules if rule is not None}

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events of this generation, in the order of the stream's grammar.

        Closing the iterator frees the engine.

        Raises:
            DeadlinePassed: before there was any token to return.
            BackendError: the engine failed.

        """
        if self._request.blocked_by is not None or not self._runs:
            yield self._started()
            for finished in self._blocked():
                yield finished
        else:
            is_started = False
            async with aclosing(self._batches()) as batches:
                async for batch in batches:
                    if not is_started:
                        is_started = True
                        yield self._started()
                    for event in batch:
                        yield event
        yield self._summary()

    def _batches(self) -> AsyncGenerator[list[ChoiceEvent], None]:
        streams = [run.events() for run in self._runs]
        return streams[0] if len(streams) == 1 else merge(streams)

    def _ended(self) -> Iterator[Finished]:
        ends = (plan.stream.finished for plan in self._request.choices)
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
        return Summary(self.usage, self._progress.watch.timings, report)


@dataclass(frozen=True, slots=True)
class ChoicePlan:
    """What one choice takes."""

    index: int
    engine: EngineRequest
    stream: ChoicePipeline
    opening: str = ""
    """Text before the generated one."""
    repeats_prompt: bool = False
    """Its prompt is that of the choice before."""


@dataclass(slots=True)
class Progress:
    """What all choices of a request have made so far."""

    watch: Stopwatch
    completion_tokens: int = 0
    cached_tokens: int | None = None
    """None as long as no engine has told it."""
    batch_size: int = 0

    def on_admitted(self, running: int) -> None:
        self.watch.on_admitted()
        self.batch_size = self.batch_size or running

    def on_step(self, step: EngineStep, *, counts_cached: bool) -> None:
        self.completion_tokens += step.token_count
        if step.cached_tokens is not None and counts_cached:
            self.cached_tokens = (self.cached_tokens or 0) + step.cached_tokens
        if step.token_count:
            self.watch.on_token()


@dataclass(slots=True)
class ChoiceRun:
    """Runs one choice."""

    plan: ChoicePlan
    backend: Backend
    permit: Permit
    deadline: Deadline | None
    progress: Progress
    has_begun: bool = field(default=False, init=False)

    async def events(self) -> AsyncGenerator[list[ChoiceEvent], None]:
        """The events of the choice, in batches; the first one comes with the permit and may be empty.

        With the last one the engine and the permit are free already. Closing the iterator frees them, too.

        Raises:
            DeadlinePassed: before any choice of the request had a token to return.
            BackendError: the engine failed.

        """
        try:
            async with self.permit() as running:
                self.progress.on_admitted(running)
                yield self._opening()
                async with aclosing(self.backend.generate(self.plan.engine)) as steps:
                    batch = await self._advance(steps)
                    while self.plan.stream.finished is None:
                        yield batch
                        batch = await self._advance(steps)
            yield batch
        except DeadlinePassed:
            if not self.progress.completion_tokens:
                raise
            yield [*self._opening(), *self.plan.stream.cut(StopCause.DEADLINE)]

    def _opening(self) -> list[ChoiceEvent]:
        if self.has_begun or not self.plan.opening:
            return []
        self.has_begun = True
        return [Delta(self.plan.index, self.plan.opening, (), 0)]

    async def _advance(self, steps: AsyncIterator[EngineStep]) -> list[ChoiceEvent]:
        try:
            step = await self._next(steps)
        except StopAsyncIteration:
            raise EngineRequestError("the engine ended a request without finishing it") from None
        self.progress.on_step(step, counts_cached=not self.plan.repeats_prompt)
        return list(self.plan.stream.on_step(step))

    async def _next(self, steps: AsyncIterator[EngineStep]) -> EngineStep:
        if self.deadline is None:
            return await steps.__anext__()
        return await self.deadline.bound(steps.__anext__())


@dataclass(slots=True)
class Stopwatch:
    """The moments of a request, in seconds of the monotonic clock."""

    arrived: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None

    def on_admitted(self) -> None:
        if self.admitted is None:
            self.admitted = time.monotonic()

    def on_token(self) -> None:
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


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T
    taken: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None


_Items = asyncio.Queue["_Item[T] | _End"]


async def merge(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yield what any stream yields, as it comes. Each is asked for more only once its last was dealt with.

    The first exception of a stream ends the others. Closing closes them all, each in a task of its own:
    what they hold is given back even if whoever closes is cancelled meanwhile.
    """
    items: _Items[T] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(stream, items)) for stream in streams]
    left = len(pumps)
    try:
        while left:
            item = await items.get()
            if isinstance(item, _Item):
                yield item.value
                _let_go_on(item.taken)
            elif item.error is not None:
                raise item.error
            else:
                left -= 1
    finally:
        for pump in pumps:
            pump.cancel()
        if pumps:
            await asyncio.wait(pumps)


async def _pump(stream: AsyncGenerator[T, None], items: _Items[T]) -> None:
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


def _let_go_on(taken: asyncio.Future[None]) -> None:
    if not taken.done():
        taken.set_result(None)
