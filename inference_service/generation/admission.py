"""Who may use the engine, and who waits."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from inference_service.errors import NotReady, QueueFull
from inference_service.generation.deadline import Deadline, DeadlinePassed


class Admission:
    """A fixed number of permits and a bounded queue that is fair between tenants.

    Tenants with waiting requests take turns, so one that floods the queue delays itself, not the
    others. Within a tenant, first come is first served. A permit lives as long as its `async with`.
    """

    def __init__(self, *, capacity: int, queue_limit: int) -> None:
        self._capacity = capacity
        self._queue_limit = queue_limit
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._waiting_count = 0
        self._hold_seconds: float | None = None
        # Of recent requests; None: there were none yet.
        self._closed = False
        self.running = 0

    @property
    def waiting(self) -> int:
        return self._waiting_count

    def close(self) -> None:
        """Admit nobody new. Requests that wait already keep their place."""
        self._closed = True

    @asynccontextmanager
    async def permit(
        self, tenant: str, deadline: Deadline | None = None, *, is_checked: bool = False
    ) -> AsyncIterator[int]:
        """Hold a permit, waiting for it if need be; gives how many are held, this one included.

        Args:
            tenant: whose turn it takes.
            deadline: how long to wait.
            is_checked: `check` has let this one in already.

        Raises:
            QueueFull, NotReady: as `check_open`.
            DeadlinePassed: while waiting.

        """
        if not is_checked:
            self.check_open()
        await self._acquire(tenant, deadline)
        began = time.monotonic()
        try:
            yield self.running
        finally:
            self._learn(time.monotonic() - began)
            self._release()

    def check_open(self) -> None:
        """Find out whether a request may come in now, before any work is done for it.

        Raises:
            QueueFull: as many as allowed wait already.
            NotReady: closed.

        """
        if self._closed:
            raise NotReady("it is shutting down")
        if self.running >= self._capacity and self._waiting_count >= self._queue_limit:
            raise QueueFull(self._queue_limit, self._next_permit())

    def check(self, permits: int, deadline: Deadline | None = None) -> None:
        """Find out whether a request that takes so many permits is admitted.

        Those that are not free at once wait in the queue, all or none: a request is never refused halfway.

        Raises:
            QueueFull, NotReady: as `check_open`.
            DeadlinePassed: it would, by the time that recent requests took, while the request waits.

        """
        self.check_open()
        free = max(0, self._capacity - self.running)
        # A request of more choices than the queue has room for could never come in; alone it may.
        if self._waiting_count and self._waiting_count + permits - free > self._queue_limit:
            raise QueueFull(self._queue_limit, self._next_permit())
        if deadline is not None and time.monotonic() + self.estimate() > deadline.at:
            raise DeadlinePassed

    def estimate(self) -> float:
        """Seconds that a request would wait now, from how long permits were held lately."""
        if self.running < self._capacity or self._hold_seconds is None:
            return 0.0
        return (self._waiting_count + 1) * self._hold_seconds / self._capacity

    async def _acquire(self, tenant: str, deadline: Deadline | None) -> None:
        if self.running < self._capacity:
            self.running += 1
            return
        if deadline is None:
            await self._wait(tenant)
        else:
            await deadline.bound(self._wait(tenant))

    async def _wait(self, tenant: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        self._waiting_count += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()
            else:
                self._forget(tenant, turn)
            raise

    def _release(self) -> None:
        """Hand the permit to the next in turn, or put it back."""
        turn = self._next_turn()
        if turn is None:
            self.running -= 1
        else:
            turn.set_result(None)

    def _next_turn(self) -> asyncio.Future[None] | None:
        while self._waiting:
            tenant, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            self._waiting_count -= 1
            if turns:
                self._waiting[tenant] = turns
            if not turn.done():
                return turn
        return None

    def _forget(self, tenant: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(tenant)
        if turns is None or turn not in turns:
            return
        turns.remove(turn)
        self._waiting_count -= 1
        if not turns:
            del self._waiting[tenant]

    def _learn(self, held: float) -> None:
        known = held if self._hold_seconds is None else self._hold_seconds
        self._hold_seconds = known + 0.2 * (held - known)

    def _next_permit(self) -> float:
        """Seconds until the queue has moved up by one, from how long permits were held lately."""
        return max(0.1, min(60.0, (self._hold_seconds or 1.0) / self._capacity))
