"""Worker threads for blocking work on requests, shared fairly between tenants."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from inference_service.errors import QueueFull
from inference_service.scheduling.admission import FairQueue, Tenant

_LEAST_WEIGHT = 1000
"""Least weight of a job in bytes: the memory that it takes beside its message."""
_RETRY_AFTER = 1.0

T = TypeVar("T")


class FairPool:
    """Runs functions in threads. Tenants take turns, and no tenant can occupy all threads.

    Args:
        threads: how many one tenant may use at once; the pool has one more.
        name: prefix of the threads' names.
        most_bytes: of all messages that may wait.

    """

    def __init__(self, threads: int, name: str, most_bytes: int) -> None:
        self._executor = ThreadPoolExecutor(threads + 1, name)
        self._most = threads
        self._idle = threads + 1
        self._running: Counter[Tenant] = Counter()
        self._waiting: FairQueue[_Job] = FairQueue(most_bytes)

    async def run(self, tenant: Tenant, size: int, function: Callable[..., T], *arguments: object) -> T:
        """Call a function in a thread. Cancelling removes a call that still waits.

        Args:
            tenant: on whose share it counts.
            size: bytes of the message that the function works on.
            function: may block.
            arguments: of the function.

        Raises:
            QueueFull: this tenant's share of the queue is full.

        """
        weight = max(size, _LEAST_WEIGHT)
        if not self._waiting.has_space(tenant, weight):
            raise QueueFull(self._waiting.counts.get(tenant, 0), _RETRY_AFTER)
        job = _Job(partial(function, *arguments))
        self._waiting.push(tenant, job, weight)
        self._start_jobs()
        try:
            result: T = await job.result
        finally:
            self._waiting.discard(tenant, job)
        return result

    def close(self) -> None:
        """Drop what waits. What runs already ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _start_jobs(self) -> None:
        while self._idle:
            busy = [tenant for tenant, count in self._running.items() if count >= self._most]
            popped = self._waiting.pop(skipping=busy)
            if popped is None:
                return
            self._start(*popped)

    def _start(self, tenant: Tenant, job: _Job) -> None:
        self._idle -= 1
        self._running[tenant] += 1
        working = asyncio.get_running_loop().run_in_executor(self._executor, job.function)
        working.add_done_callback(partial(self._end, tenant, job))

    def _end(self, tenant: Tenant, job: _Job, working: asyncio.Future[Any]) -> None:
        self._idle += 1
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        _copy_result(working, job.result)
        self._start_jobs()


class _Job:
    """A call, and the future for its result."""

    __slots__ = ("function", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


def _copy_result(working: asyncio.Future[Any], result: asyncio.Future[Any]) -> None:
    """Copy a result to the future that a caller waits for, unless the caller has left."""
    if working.cancelled():
        result.cancel()
        return
    error = working.exception()
    if result.done():
        return
    if error is None:
        result.set_result(working.result())
    else:
        result.set_exception(error)
