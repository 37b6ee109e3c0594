"""Pacing: how long a stream gathers tokens between two messages, so that a busy loop has fewer to send.

A message costs about the same with one token as with ten. While the loop has time, each token is sent alone
and at once. Once the loop is busy, each stream pauses after a message, and the tokens that become ready in
the pause travel together. The pause is the *stream interval*. It is the same for all streams of a server,
and it follows the load.

Two readings show the load, and either is enough:

- the part of the time in which the loop's thread runs, or is ready and waits for a core
- how late a timer fires

The first does not see a thread that waits for a lock or for its CPU quota, and outside Linux not the wait for
a core. The second does, but it takes a late wake-up of an idle loop for load, so it counts only where the
first reading shows some.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

HIGHEST_INTERVAL = 10.0
"""Seconds; the upper end of the range of every stream interval."""

INTERVAL_NAME = "x-stream-interval"
"""The header, and the metadata, in which a caller says the largest interval that it accepts, in seconds."""

_TICK = 0.02
"""Seconds between two readings of how late a timer fires."""
_WINDOW = 0.1
"""Seconds between two corrections of the interval."""
_SMOOTHING = 0.2
"""Weight of the newest reading in the mean lateness."""
_HIGH_SHARE, _LOW_SHARE = 0.75, 0.65
"""Parts of the time in which the thread is busy: above the first the interval grows, below the second it
shrinks."""
_HIGH_LATENESS, _LOW_LATENESS = 0.008, 0.004
"""The same for the mean lateness, in seconds."""
_SOME_SHARE = 0.3
"""Below this the loop is idle, and pacing it would change nothing."""
_GROWTH, _DECAY = 1.25, 0.85
"""Factors of the interval for each window."""
_FULL_SHARE, _FAST_GROWTH = 0.95, 2.0
"""Above this share the loop is full, as in a burst of new streams, and the interval grows by this factor."""
_FIRST_INTERVAL, _LEAST_INTERVAL = 0.005, 0.002
"""Seconds: where the growth begins, and below what the interval is 0."""

_RECENT = 1.0
"""An interval is in use until no stream has asked for one for so many seconds more than the largest lasts."""

_SECONDS = re.compile(r"[0-9]{1,2}(\.[0-9]{1,6})?")


Pacing = Literal["auto", "always", "random"]
"""The choice of the interval: by the load of the loop, always the largest one, or at random, 0 included."""


def parse_interval(text: str) -> float:
    """Read the largest interval that a caller accepts, in seconds.

    Raises:
        ValueError: it is no number in [0, 10]; the message says so.

    """
    seconds = float(text) if _SECONDS.fullmatch(text) else HIGHEST_INTERVAL + 1
    if seconds > HIGHEST_INTERVAL:
        raise ValueError(f"must be a number of seconds in [0, {HIGHEST_INTERVAL:g}]")
    return seconds


Interval = Callable[[], float]
"""Seconds for which a stream gathers after a message, as they are now."""


def no_interval() -> float:
    """The interval of a stream that never gathers."""
    return 0.0


class Pacer:
    """Chooses the stream interval of one event loop.

    Its timer runs only while streams ask for the interval.

    Args:
        most: largest interval, in seconds, range [0, 10]; 0: there is none.
        pacing: how it is chosen.
        load: reads the load; None: of the thread that asks first.
        least: the interval that another loop needs, which makes the tokens.

    """

    def __init__(
        self,
        most: float,
        pacing: Pacing = "auto",
        load: LoadMeter | None = None,
        least: Interval = no_interval,
    ) -> None:
        self._most = most
        self._pacing = pacing
        self._load = load or LoadMeter()
        self._least = least
        self._interval = 0.0
        self._is_used = False
        self._asked = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def interval(self, most: float | None = None) -> float:
        """Seconds for which a stream gathers after a message.

        Args:
            most: what its caller accepts at most; None: whatever the server does.

        """
        if self._most == 0 or most == 0:
            return 0.0
        limit = self._most if most is None else min(most, self._most)
        if self._pacing == "auto":
            self._is_used = True
            if self._timer is None:
                self._start()
            return min(max(self._interval, self._least()), limit)
        self._asked = time.monotonic()
        return limit if self._pacing == "always" else _random(limit)

    @property
    def current(self) -> float:
        """The interval in use, in seconds, before any caller's own limit: 0 where no stream runs, and the
        largest one where they are random. Any thread may read it, and a reading never starts the timer.
        """
        if self._pacing == "auto":
            return min(max(self._interval, self._least()), self._most)
        return self._most if time.monotonic() - self._asked < self._most + _RECENT else 0.0

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._load.start(self._loop.time())
        self._set_timer()

    def _set_timer(self) -> None:
        self._due = self._loop.time() + _TICK
        self._timer = self._loop.call_at(self._due, self._on_timer)

    def _on_timer(self) -> None:
        now = self._loop.time()
        if self._load.tick(now, now - self._due):
            self._interval = next_interval(self._interval, self._load, self._most)
            if not (self._is_used or self._interval):
                self._timer = None
                return
            self._is_used = False
        self._set_timer()


def _random(limit: float) -> float:
    return random.choice((0.0, random.uniform(0, limit)))  # noqa: S311  not a secret


class LoadMeter:
    """Reads how busy the loop's thread is, and how late its timers fire.

    Args:
        busy_seconds: for how long this thread has been busy so far.

    """

    def __init__(self, busy_seconds: Callable[[], float] | None = None) -> None:
        self._busy_seconds = busy_seconds or thread_busy_seconds
        self.share = 0.0
        """Part of the last window in which the thread ran, or waited for a core."""
        self.lateness = 0.0
        """Seconds, the mean of the last readings."""

    def start(self, now: float) -> None:
        """Begin anew, after a time without readings."""
        self.share = self.lateness = 0.0
        self._began, self._busy = now, self._busy_seconds()

    def tick(self, now: float, late: float) -> bool:
        """Take one reading; True where a window ends with it.

        Args:
            now: the loop's clock, in seconds.
            late: seconds by which the timer fired late.

        """
        self.lateness += _SMOOTHING * (late - self.lateness)
        passed = now - self._began
        if passed < _WINDOW:
            return False
        busy = self._busy_seconds()
        self.share = (busy - self._busy) / passed
        self._began, self._busy = now, busy
        return True


def next_interval(interval: float, load: LoadMeter, most: float) -> float:
    """The interval after a window with this load, in seconds."""
    late = load.lateness if load.share > _SOME_SHARE else 0.0
    if load.share > _HIGH_SHARE or late > _HIGH_LATENESS:
        growth = _FAST_GROWTH if load.share > _FULL_SHARE else _GROWTH
        return min(max(interval * growth, _FIRST_INTERVAL), most)
    if load.share < _LOW_SHARE and late < _LOW_LATENESS:
        interval *= _DECAY
        return interval if interval >= _LEAST_INTERVAL else 0.0
    return interval


_SCHEDSTAT = Path("/proc/thread-self/schedstat")
"""Of Linux: nanoseconds that the thread ran, then those that it was ready and waited for a core."""


def thread_busy_seconds() -> float:
    """How long this thread ran so far, and on Linux how long it was ready and waited for a core."""
    try:
        ran, waited, _ = _SCHEDSTAT.read_bytes().split()
        return (int(ran) + int(waited)) / 1e9
    except (OSError, ValueError):
        return time.thread_time()


class Pause:
    """A pause between two messages that something may end early."""

    __slots__ = ("_is_over", "_waiter")

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None
        self._is_over = False

    async def wait(self, seconds: float) -> None:
        """Wait for so many seconds, or until `end` is called; not at all once it was."""
        if seconds <= 0 or self._is_over:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, _wake, self._waiter)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def end(self) -> None:
        """End the pause, and every later one."""
        self._is_over = True
        if self._waiter is not None:
            _wake(self._waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
