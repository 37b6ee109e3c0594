"""Worker threads that tenants share: no tenant blocks others or exceeds its share of memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from inference_service.errors import QueueFull
from inference_service.scheduling.workers import FairPool

TIMEOUT_SECONDS = 10.0


@asynccontextmanager
async def pool(threads: int = 1, most_bytes: int = 1_000_000) -> AsyncIterator[FairPool]:
    made = FairPool(threads, "test", most_bytes)
    try:
        yield made
    finally:
        made.close()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_results_and_errors_are_returned() -> None:
    def fail() -> None:
        raise KeyError("k")

    async with pool() as workers:
        assert await workers.run("a", 1, divmod, 7, 2) == (3, 1)
        with pytest.raises(KeyError):
            await workers.run("a", 1, fail)


async def test_a_flooding_tenant_leaves_a_thread_to_others() -> None:
    release = threading.Event()
    async with pool(threads=2) as workers:
        flood = [
            asyncio.create_task(workers.run("flooder", 1000, release.wait, TIMEOUT_SECONDS))
            for _ in range(20)
        ]
        await settle()

        assert await asyncio.wait_for(workers.run("quiet", 1000, int, "7"), TIMEOUT_SECONDS) == 7
        assert not any(task.done() for task in flood)
        release.set()
        await asyncio.wait_for(asyncio.gather(*flood), TIMEOUT_SECONDS)


async def test_tenants_take_turns() -> None:
    first, second = threading.Event(), threading.Event()
    order: list[str] = []
    async with pool(threads=1) as workers:
        blockers = [
            asyncio.create_task(workers.run(name, 1, release.wait, TIMEOUT_SECONDS))
            for name, release in (("x", first), ("y", second))
        ]
        await settle()
        names = ["a", "a", "a", "b", "b", "c"]
        tasks = [asyncio.create_task(workers.run(name, 1, order.append, name)) for name in names]
        await settle()
        # Only one thread runs the waiting work, so that it ends in the order of its start.
        first.set()
        await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT_SECONDS)
        second.set()
        await asyncio.wait_for(asyncio.gather(*blockers), TIMEOUT_SECONDS)

    assert order == ["a", "b", "c", "a", "b", "a"]


async def test_cancelled_work_does_not_run() -> None:
    release = threading.Event()
    ran: list[int] = []
    async with pool(threads=1) as workers:
        first = asyncio.create_task(workers.run("a", 1, release.wait, TIMEOUT_SECONDS))
        second = asyncio.create_task(workers.run("a", 1, ran.append, 1))
        await settle()
        second.cancel()
        await settle()
        release.set()
        await first
        await workers.run("a", 1, ran.append, 2)

    assert ran == [2]


async def test_waiting_work_is_bounded_for_each_tenant() -> None:
    release = threading.Event()
    async with pool(threads=1, most_bytes=100_000) as workers:
        busy = [
            asyncio.create_task(workers.run("flooder", 10_000, release.wait, TIMEOUT_SECONDS))
            for _ in range(6)
        ]
        await settle()

        with pytest.raises(QueueFull) as refused:
            await workers.run("flooder", 10_000, int)
        assert refused.value.retry_after is not None
        assert await workers.run("quiet", 90_000, int, "7") == 7
        release.set()
        await asyncio.gather(*busy)
