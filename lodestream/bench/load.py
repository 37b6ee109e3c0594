"""Puts a target under load: closed loop, Poisson arrivals or a trace; keeps what became of every request."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lodestream.bench.targets import Outcome, Target
from lodestream.bench.workload import BenchRequest, poisson_arrivals

_TICK = 0.05
"""Seconds between two looks at how late the event loop is."""
_PROGRESS = 0.5
"""Seconds between two reports of progress."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How a load is offered, and for how long: `requests`, `seconds`, or both are set unless a trace ends."""

    concurrency: int | None
    """Closed loop: requests that are open at any time. With `rate` or a trace: the most that may be open."""
    rate: float | None = None
    """Requests a second, arriving as a Poisson process."""
    requests: int | None = None
    """Requests to send, those of the warm-up included."""
    seconds: float | None = None
    """Time for which requests are sent; those that are open then are read to their end."""
    warmup_seconds: float = 0.0
    """Time at the start that no figure counts."""
    ramp_seconds: float = 0.0
    """Closed loop: time over which the first requests are spread; 0: all at once."""
    seed: int = 0
    """Of the arrivals."""


@dataclass(slots=True)
class LoadResult:
    """The measurements of a load."""

    model: str
    plan: LoadPlan
    began: float
    """Of `time.perf_counter`, like all times of the outcomes."""
    outcomes: list[Outcome] = field(default_factory=list)
    stopped: float = 0.0
    """When the last request was sent, or the time was over."""
    cpu_share: float = 0.0
    """CPU time of this process over wall time: near 1 it measures itself."""
    late_seconds: list[float] = field(default_factory=list)
    """How late this process's event loop was, by sample."""


@dataclass(slots=True)
class Progress:
    """The progress of a load."""

    open: int = 0
    done: int = 0
    failed: int = 0
    seconds: float = 0.0


async def run_load(
    target: Target,
    workload: Iterable[BenchRequest],
    plan: LoadPlan,
    report: Callable[[Progress], None] = lambda _: None,
) -> LoadResult:
    """Offer the load, and wait until each request has ended.

    Raises:
        OperatorError: the target cannot be reached, or serves no model.

    """
    model = await target.open()
    load = _Load(target, workload, plan, LoadResult(model, plan, time.perf_counter()))
    cpu = time.process_time()
    async with _watch(load, report):
        await load.run()
    result = load.result
    result.cpu_share = (time.process_time() - cpu) / (time.perf_counter() - result.began)
    return result


class _Load:
    def __init__(
        self, target: Target, workload: Iterable[BenchRequest], plan: LoadPlan, result: LoadResult
    ) -> None:
        self._target = target
        self._requests = iter(workload)
        self._plan = plan
        self.result = result
        self.progress = Progress()
        self._end = result.began + plan.seconds if plan.seconds else float("inf")
        self._left = plan.requests if plan.requests is not None else float("inf")
        self._permits = asyncio.Semaphore(plan.concurrency) if plan.concurrency else None

    async def run(self) -> None:
        first = next(self._requests, None)
        if first is not None:
            self._requests = itertools.chain([first], self._requests)
            if first.at is None and self._plan.rate is None:
                await self._closed_loop()
            else:
                await self._open_loop()
        self.result.stopped = self.result.stopped or min(time.perf_counter(), self._end)

    async def _closed_loop(self) -> None:
        concurrency = self._plan.concurrency or 1
        async with asyncio.TaskGroup() as group:
            for number in range(concurrency):
                group.create_task(self._caller(self._plan.ramp_seconds * number / concurrency))

    async def _caller(self, delay: float) -> None:
        """Send one request after the other."""
        await asyncio.sleep(delay)
        while (request := self._next()) is not None:
            await self._send(request, time.perf_counter())
        self.result.stopped = self.result.stopped or min(time.perf_counter(), self._end)

    async def _open_loop(self) -> None:
        async with asyncio.TaskGroup() as group:
            for at in self._times():
                due = self.result.began + at
                if due >= self._end:
                    break
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                if (request := self._next()) is None:
                    break
                group.create_task(self._send(request, due))
            self.result.stopped = min(time.perf_counter(), self._end)

    def _times(self) -> Iterator[float]:
        """When each request is due, in seconds after the start."""
        if self._plan.rate is not None:
            yield from poisson_arrivals(self._plan.rate, self._plan.seed)
            return
        requests, self._requests = itertools.tee(self._requests)
        for request in requests:
            yield request.at or 0.0

    def _next(self) -> BenchRequest | None:
        if self._left <= 0 or time.perf_counter() >= self._end:
            return None
        self._left -= 1
        return next(self._requests, None)

    async def _send(self, request: BenchRequest, due: float) -> None:
        async with self._permit():
            self.progress.open += 1
            outcome = await self._target.send(request, due)
            self.progress.open -= 1
            self.progress.done += 1
            self.progress.failed += bool(outcome.error)
            self.result.outcomes.append(outcome)

    @asynccontextmanager
    async def _permit(self) -> AsyncIterator[None]:
        if self._permits is None:
            yield
        else:
            async with self._permits:
                yield


@asynccontextmanager
async def _watch(load: _Load, report: Callable[[Progress], None]) -> AsyncIterator[None]:
    """Sample how late the event loop is, and report progress, for as long as the block runs."""

    async def sample() -> None:
        reported = 0.0
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_TICK)
            now = time.perf_counter()
            load.result.late_seconds.append(max(0.0, now - began - _TICK))
            load.progress.seconds = now - load.result.began
            if now - reported >= _PROGRESS:
                reported = now
                report(load.progress)

    task = asyncio.create_task(sample())
    try:
        yield
    finally:
        task.cancel()
