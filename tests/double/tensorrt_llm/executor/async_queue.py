"""The queue that carries results from the worker thread to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")


class AsyncQueue(Generic[Item]):
    """An unbounded queue, filled by a thread and read in the event loop that created it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._filled = asyncio.Event()

    def put_nowait(self, item: Item) -> None:
        """Add an item without waking a reader. Thread-safe."""
        self._items.append(item)

    async def get(self) -> Item:
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        return self._items.popleft()

    def _notify(self) -> None:
        if self._items:
            self._filled.set()


def notify_many(loop: asyncio.AbstractEventLoop, queues: Iterable[AsyncQueue[Item]]) -> None:
    """Wake the readers of some queues in one loop; readers in other loops are not woken."""
    woken = [queue for queue in queues if queue.loop is loop]

    def notify() -> None:
        for queue in woken:
            queue._notify()

    # A closed loop has no readers.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(notify)
