"""One request, from its first event to its last."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from inference_service.backends.base import Backend
from inference_service.generation.admission import Permit
from inference_service.generation.deadline import Deadline
from inference_service.generation.events import (
    ChoiceEvent,
    Event,
    Finished,
    Report,
    Started,
    StopCause,
    Summary,
    Usage,
)
from inference_service.generation.merge import merge
from inference_service.generation.run import ChoicePlan, ChoiceRun, Progress
from inference_service.generation.watch import Stopwatch


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
