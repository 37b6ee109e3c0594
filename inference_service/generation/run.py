"""One choice of a request in the engine: its permit, its deadline, its steps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from inference_service.backends.base import Backend
from inference_service.backends.errors import EngineRequestError
from inference_service.backends.types import EngineRequest, EngineStep
from inference_service.generation.admission import Permit
from inference_service.generation.deadline import Deadline, DeadlinePassed
from inference_service.generation.events import ChoiceEvent, Delta, StopCause
from inference_service.generation.pipeline import ChoicePipeline
from inference_service.generation.watch import Stopwatch


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
