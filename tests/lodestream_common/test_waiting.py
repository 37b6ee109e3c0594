"""Work that ends by itself, with an error, or because of an event."""

from __future__ import annotations

import asyncio

import pytest

from lodestream_common.waiting import finishes_before


async def test_work_that_ends_before_the_event() -> None:
    assert await finishes_before(asyncio.Event(), asyncio.sleep(0))


async def test_an_event_cancels_the_work() -> None:
    event, was_cancelled = asyncio.Event(), False

    async def work() -> None:
        nonlocal was_cancelled
        try:
            event.set()
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            was_cancelled = True
            raise

    assert not await finishes_before(event, work())
    await asyncio.sleep(0)
    assert was_cancelled


async def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await finishes_before(asyncio.Event(), work())
