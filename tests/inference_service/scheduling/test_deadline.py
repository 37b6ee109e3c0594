"""Deadlines: the work that they cancel, and the work that they do not affect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from inference_service.scheduling.admission import Deadline, DeadlinePassed


def soon(seconds: float = 0.05) -> Deadline:
    return Deadline(time.monotonic() + seconds)


@pytest.mark.parametrize(("seconds", "kept"), [(0.1, 0.02), (1.0, 0.1), (5.0, 0.25), (60.0, 1.8)])
def test_part_of_the_time_is_reserved_for_the_reply(seconds: float, kept: float) -> None:
    now = time.monotonic()

    assert Deadline.after(seconds).at - now == pytest.approx(seconds - kept, abs=0.05)


async def test_work_that_ends_in_time_is_not_affected() -> None:
    assert await soon(10).bound(asyncio.sleep(0, "done")) == "done"


async def test_work_that_never_waits_is_done_even_after_the_deadline() -> None:
    async def ready() -> str:
        return "done"

    assert await soon(-1).bound(ready()) == "done"


async def test_work_is_cancelled_at_the_deadline() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(DeadlinePassed):
        await soon().bound(work())
    assert cancelled.is_set()


async def test_the_task_can_continue_after_a_deadline() -> None:
    """The deadline's own cancellation has no later effect."""
    with pytest.raises(DeadlinePassed):
        await soon().bound(asyncio.Event().wait())

    await asyncio.sleep(0.01)
    with pytest.raises(DeadlinePassed):
        await soon().bound(asyncio.Event().wait())


async def test_an_outer_cancellation_stays_a_cancellation() -> None:
    task = asyncio.create_task(soon(10).bound(asyncio.Event().wait()))
    await asyncio.sleep(0.01)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_inside_the_work_is_not_the_deadline() -> None:
    async def work() -> None:
        raise TimeoutError("a timeout inside the engine")

    with pytest.raises(TimeoutError, match="inside the engine"):
        await soon(10).bound(work())


async def test_a_generator_cancelled_by_a_deadline_is_cleaned_up_and_can_be_closed() -> None:
    released = []

    async def steps() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            released.append(True)

    async with aclosing(steps()) as cut:
        assert await soon(10).bound(anext(cut)) == 1
        with pytest.raises(DeadlinePassed):
            await soon().bound(anext(cut))
        assert released == [True]


async def test_a_step_that_a_generator_yields_on_cancellation_is_kept() -> None:
    """The last tokens of an engine that yields them on cancellation are not lost."""

    async def steps() -> AsyncGenerator[str, None]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "last tokens"

    async with aclosing(steps()) as cut:
        assert await soon().bound(anext(cut)) == "last tokens"
        with pytest.raises(StopAsyncIteration):
            await soon(10).bound(anext(cut))
