"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

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
