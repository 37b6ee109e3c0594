"""One admitted request, from its first event to its last."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from inference_service.backends.base import Backend
from inference_service.backends.errors import EngineRequestError
from inference_service.backends.types import EngineRequest, EngineStep
from inference_service.generation.choice import ChoiceStream
from inference_service.generation.deadline import Deadline, DeadlinePassed
from inference_service.generation.events import (
    ChoiceEvent,
    Event,
    Started,
    StopCause,
    Summary,
    Timings,
    Usage,
)
from inference_service.generation.text import Detokenizer


@dataclass(slots=True)
class Stopwatch:
    """The moments of a request, in seconds of the monotonic clock."""

    arrived: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None

    def on_admitted(self) -> None:
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


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to generate, once the prompt is tokens: it cannot be wrong any more."""

    model: str
    """The served id."""
    engine: EngineRequest
    stops: Sequence[str]
    stop_token_ids: frozenset[int]
    deadline: Deadline | None


class Generation:
    """Runs one request on the engine and says what happens as events."""

    def __init__(
        self,
        backend: Backend,
        detokenizer: Detokenizer,
        request: GenerationRequest,
        watch: Stopwatch,
    ) -> None:
        self._backend = backend
        self._request = request
        self._watch = watch
        self._choice = ChoiceStream(detokenizer, stops=request.stops, stop_token_ids=request.stop_token_ids)
        self.completion_tokens = 0
        self.cached_tokens = 0

    @property
    def usage(self) -> Usage:
        """Tokens so far, also when the generation was cut off."""
        return Usage(len(self._request.engine.prompt_ids), self.completion_tokens, self.cached_tokens)

    @property
    def cause(self) -> StopCause | None:
        """How the choice ended, if it did."""
        return None if self._choice.finished is None else self._choice.finished.cause

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events of this generation, in the order of the stream's grammar.

        Closing the iterator frees the engine.

        Raises:
            DeadlinePassed: before there was any token to return.
            BackendError: the engine failed.

        """
        yield self._started()
        async with aclosing(self._backend.generate(self._request.engine)) as steps:
            while self._choice.finished is None:
                for event in await self._advance(steps):
                    yield event
        yield Summary(self.usage, self._watch.timings)

    def _started(self) -> Started:
        engine = self._request.engine
        return Started(engine.request_id, self._request.model, int(time.time()), len(engine.prompt_ids))

    async def _advance(self, steps: AsyncIterator[EngineStep]) -> list[ChoiceEvent]:
        try:
            step = await self._next(steps)
        except StopAsyncIteration:
            raise EngineRequestError("the engine ended a request without finishing it") from None
        except DeadlinePassed:
            if not self.completion_tokens:
                raise
            return list(self._choice.cut(StopCause.DEADLINE))
        self._count(step)
        return list(self._choice.on_step(step))

    async def _next(self, steps: AsyncIterator[EngineStep]) -> EngineStep:
        if self._request.deadline is None:
            return await steps.__anext__()
        return await self._request.deadline.bound(steps.__anext__())

    def _count(self, step: EngineStep) -> None:
        self.completion_tokens += step.token_count
        if step.cached_tokens is not None:
            self.cached_tokens = step.cached_tokens
        if step.token_count:
            self._watch.on_token()
