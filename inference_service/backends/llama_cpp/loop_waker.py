"""Wakes the event loop from a thread, without holding the GIL at that moment."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress


class LoopWaker:
    """Runs callbacks of other threads in the loop that is running now.

    `call_soon_threadsafe` holds the GIL while it wakes the loop. Where every core computes, the loop gets the
    core of the thread that woke it, waits for the GIL, and a compute thread takes the core before that
    thread can let go: milliseconds for every token. Sending on a socket lets go of the GIL first.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._callbacks: deque[Callable[[], None]] = deque()
        self._has_rung = False
        self._is_closed = False
        self._inside, self._outside = socket.socketpair()
        for end in (self._inside, self._outside):
            end.setblocking(False)
        self._loop.add_reader(self._inside, self._answer)

    def ring(self, callback: Callable[[], None]) -> bool:
        """Schedule a callback in the loop, from any thread; False if the loop will not run it."""
        if self._is_closed or self._loop.is_closed():
            return False
        self._callbacks.append(callback)
        if not self._has_rung:
            self._has_rung = True
            # It may be closed in this moment, with all that waits run.
            with suppress(OSError):
                self._outside.send(b"\0")
        return True

    def close(self) -> None:
        """Run what rang before, and nothing from now on. To be called in the loop; twice is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._inside)
        self._run()
        self._inside.close()
        self._outside.close()

    def _answer(self) -> None:
        with suppress(BlockingIOError):
            self._inside.recv(64)
        # Before the callbacks run: one that comes from now on rings again.
        self._has_rung = False
        self._run()

    def _run(self) -> None:
        try:
            while self._callbacks:
                self._callbacks.popleft()()
        finally:
            if self._callbacks:
                self._loop.call_soon(self._run)
