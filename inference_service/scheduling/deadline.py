"""The deadline of a request, and the moments that its timings are made of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from inference_service.output.events import Timings

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


@dataclass(slots=True)
class Stopwatch:
    """The moments of a request, in seconds of the monotonic clock."""

    arrived: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None

    def on_admitted(self) -> None:
        if self.admitted is None:
            self.admitted = time.monotonic()

    def on_token(self) -> None:
        self.last_token = time.monotonic()
        if self.first_token is None:
            self.first_token = self.last_token

    @property
    def timings(self) -> Timings:
        admitted = self.admitted or self.arrived
        first = self.first_token or admitted
        last = self.last_token or first
        return Timings(
            queue_ms=(admitted - self.arrived) * 1e3,
            prefill_ms=(first - admitted) * 1e3,
            decode_ms=(last - first) * 1e3,
            time_to_first_token_ms=(first - self.arrived) * 1e3,
        )
