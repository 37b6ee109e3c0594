"""A fixed point in time by which the caller wants an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class DeadlinePassed(Exception):
    """Expected: the deadline, less its margin, has passed."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When to stop, on the monotonic clock, a little before the caller's own limit."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline of a call with this many seconds left.

        A tenth of them, between 20 and 250 ms, is kept for the answer's way back; of a long time 3 %,
        because the gRPC core of some callers rounds what it sends up by as much.
        """
        margin = max(min(max(0.1 * seconds, 0.02), 0.25), 0.03 * seconds)
        return cls(time.monotonic() + seconds - margin)

    async def bound(self, work: Awaitable[T]) -> T:
        """Await `work` until the deadline.

        Raises:
            DeadlinePassed: it passed first; `work` has been cancelled.

        """
        limit = asyncio.timeout(max(self.at - time.monotonic(), 0))
        try:
            async with limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlinePassed from None
