"""Merged streams: their items, and that an end at any point closes all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress

import pytest

from inference_service.scheduling.runner import merge


class Source:
    """A stream that counts how often it was requested for an item, and knows whether it was closed."""

    def __init__(
        self, items: Sequence[str], *, pauses: int = 1, error: Exception | None = None, endless: bool = False
    ) -> None:
        self._items = items
        self._pauses = pauses
        self._error = error
        self._endless = endless
        self.requested = 0
        self.open = 0

    async def stream(self) -> AsyncGenerator[str, None]:
        self.open += 1
        try:
            for item in self._items:
                self.requested += 1
                await self._pause()
                yield item
            self.requested += 1
            await self._pause()
            if self._error is not None:
                raise self._error
            if self._endless:
                await asyncio.Event().wait()
        finally:
            try:
                # Freeing an engine may take an iteration of the event loop, too.
                await asyncio.sleep(0)
            finally:
                self.open -= 1

    async def _pause(self) -> None:
        for _ in range(self._pauses):
            await asyncio.sleep(0)


def merged(*sources: Source) -> AsyncGenerator[str, None]:
    return merge([source.stream() for source in sources])


async def collect(*sources: Source) -> list[str]:
    async with aclosing(merged(*sources)) as stream:
        return [item async for item in stream]


async def test_all_items_arrive_in_the_order_of_their_stream() -> None:
    sources = [Source("abc", pauses=1), Source("", pauses=0), Source("xyzuvw", pauses=3)]

    items = await asyncio.wait_for(collect(*sources), 10)

    assert [item for item in items if item in "abc"] == list("abc")
    assert [item for item in items if item not in "abc"] == list("xyzuvw")
    assert not any(source.open for source in sources)


async def test_without_streams_there_are_no_items() -> None:
    assert await collect() == []


async def test_streams_are_interleaved() -> None:
    items = await collect(Source("aaa"), Source("bbb"))

    assert items == list("ababab")


async def test_a_slow_stream_does_not_delay_another() -> None:
    items = await collect(Source("a", pauses=50), Source("bbbb"))

    assert items == list("bbbba")


async def test_a_stream_is_asked_for_an_item_only_after_its_last_one_was_read() -> None:
    sources = [Source("abcdef", pauses=0), Source("uvwxyz", pauses=0)]

    async with aclosing(merged(*sources)) as stream:
        async for item in stream:
            for _ in range(20):
                await asyncio.sleep(0)
            own = 0 if item in "abcdef" else 1
            assert sources[own].requested == "abcdefuvwxyz".index(item) % 6 + 1


@pytest.mark.parametrize("error", [ValueError("bad"), TimeoutError(), KeyError("key")])
async def test_the_first_exception_closes_all_streams(error: Exception) -> None:
    sources = [Source("a", endless=True), Source("b", error=error), Source("", endless=True)]

    with pytest.raises(type(error)):
        await asyncio.wait_for(collect(*sources), 10)
    assert not any(source.open for source in sources)


async def test_one_of_two_simultaneous_exceptions_is_raised() -> None:
    sources = [Source("", error=ValueError("one")), Source("", error=ValueError("two"))]

    with pytest.raises(ValueError, match="one"):
        await collect(*sources)
    assert not any(source.open for source in sources)


async def test_closing_the_merged_stream_closes_all_streams() -> None:
    sources = [Source("abc"), Source("abc", pauses=9), Source("", endless=True)]
    before = asyncio.all_tasks()

    async with aclosing(merged(*sources)) as stream:
        async for _ in stream:
            break

    assert not any(source.open for source in sources)
    assert asyncio.all_tasks() == before


async def test_an_exception_during_a_close_does_not_stop_other_closes() -> None:
    async def stubborn() -> AsyncGenerator[str, None]:
        try:
            yield "a"
        finally:
            raise ValueError("while closing")

    other = Source("b", endless=True)
    stream = merge([stubborn(), other.stream()])

    assert await anext(stream) == "a"
    await asyncio.wait_for(stream.aclose(), 10)

    assert other.open == 0


def _sources() -> list[Source]:
    return [Source("abc", pauses=2), Source("de", pauses=1), Source("f", pauses=4)]


Cancel = Callable[["asyncio.Task[None]"], None]


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_a_cancellation_at_any_step_leaves_no_task_and_no_open_stream(cancels: int) -> None:
    """This holds also for several cancellations in consecutive steps."""
    before = asyncio.all_tasks()
    done = False
    steps = 0
    while not done:
        sources = _sources()
        done = await _cancel_after(steps, sources, cancels)
        for _ in range(10):
            await asyncio.sleep(0)
        assert [source.open for source in sources] == [0, 0, 0], steps
        assert asyncio.all_tasks() == before
        steps += 1
    assert steps > 10


async def _cancel_after(steps: int, sources: Sequence[Source], cancels: int) -> bool:
    async def read() -> None:
        async with aclosing(merged(*sources)) as stream:
            async for _ in stream:
                await asyncio.sleep(0)

    task = asyncio.create_task(read())
    for _ in range(steps):
        await asyncio.sleep(0)
    was_over = task.done()
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    with suppress(asyncio.CancelledError):
        await task
    return was_over
