"""Who may use the engine, and who waits."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial

from inference_service.errors import DeadlineBeforeFirstToken, NotReady, QueueFull
from inference_service.generation.deadline import Deadline, DeadlinePassed

Permit = Callable[[], AbstractAsyncContextManager[int]]
"""Waits for a permit; the context holds it. Gives how many are held, this one included.

Raises:
    DeadlinePassed: while waiting.

"""

_Turn = asyncio.Future[None]
"""A place in the queue; done once it has a permit."""


class Admission:
    """A fixed number of permits and a bounded queue that is fair between tenants.

    Tenants with waiting requests take turns, so one that floods the queue delays itself, not the
    others. Within a tenant, first come is first served.
    """

    def __init__(self, *, capacity: int, queue_limit: int) -> None:
        self._capacity = capacity
        self._queue_limit = queue_limit
        self._waiting: OrderedDict[str, deque[_Turn]] = OrderedDict()
        self._waiting_count = 0
        self._hold_seconds: float | None = None
        """How long recent requests held a permit; None: there were none yet."""
        self._closed = False
        self.running = 0

    @property
    def waiting(self) -> int:
        return self._waiting_count

    def close(self) -> None:
        """Admit nobody new. Requests that wait already keep their place."""
        self._closed = True

    def check_open(self) -> None:
        """Find out whether anybody may come in.

        Raises:
            NotReady: closed.

        """
        if self._closed:
            raise NotReady("it is shutting down")

    def check_space(self) -> None:
        """Find out whether a request may come in now, before any work is done for it.

        Raises:
            QueueFull: as many as allowed wait already.

        """
        if self.running >= self._capacity and self._waiting_count >= self._queue_limit:
            raise QueueFull(self._queue_limit, self._next_permit())

    @contextmanager
    def reserve(self, tenant: str, permits: int, deadline: Deadline | None = None) -> Iterator[Permit]:
        """Take places for a request: free permits at once, the rest in the queue. All of them or none.

        Gives what waits for a permit and holds it, as often as there are places. Those that are left when
        the context ends are given back.

        Args:
            tenant: whose turns it takes.
            permits: how many; none needs no place.
            deadline: how long to wait.

        Raises:
            NotReady: closed.
            QueueFull: there are not so many places.
            DeadlineBeforeFirstToken: by the time that recent requests took, it would pass in the queue.

        """
        if permits:
            self._check(tenant, permits, deadline)
        turns = deque([self._enter(tenant) for _ in range(permits)])
        try:
            yield partial(self._hold, tenant, turns, deadline)
        finally:
            while turns:
                self._give_back(tenant, turns.pop())

    def estimate(self, tenant: str) -> float:
        """Seconds that a request would wait now, from how long permits were held lately."""
        if self.running < self._capacity or self._hold_seconds is None:
            return 0.0
        own = len(self._waiting.get(tenant, ()))
        others = (len(turns) for name, turns in self._waiting.items() if name != tenant)
        before = own + sum(min(count, own + 1) for count in others)
        return (before + 1) * self._hold_seconds / self._capacity

    def _check(self, tenant: str, permits: int, deadline: Deadline | None) -> None:
        self.check_open()
        self.check_space()
        # A request of more choices than the queue has room for could never come in; alone it may.
        if self._waiting_count and self._waiting_count + permits > self._queue_limit:
            raise QueueFull(self._queue_limit, self._next_permit())
        wait = self.estimate(tenant)
        if deadline is not None and wait and time.monotonic() + wait > deadline.at:
            raise DeadlineBeforeFirstToken(wait)

    def _enter(self, tenant: str) -> _Turn:
        turn: _Turn = asyncio.get_running_loop().create_future()
        if self.running < self._capacity:
            self.running += 1
            turn.set_result(None)
        else:
            self._waiting.setdefault(tenant, deque()).append(turn)
            self._waiting_count += 1
        return turn

    @asynccontextmanager
    async def _hold(self, tenant: str, turns: deque[_Turn], deadline: Deadline | None) -> AsyncIterator[int]:
        turn = turns.popleft()
        try:
            await (turn if deadline is None else deadline.bound(turn))
        except (asyncio.CancelledError, DeadlinePassed):
            self._give_back(tenant, turn)
            raise
        began = time.monotonic()
        try:
            yield self.running
        finally:
            self._learn(time.monotonic() - began)
            self._release()

    def _give_back(self, tenant: str, turn: _Turn) -> None:
        if turn.done() and not turn.cancelled():
            self._release()
        else:
            self._forget(tenant, turn)

    def _release(self) -> None:
        """Hand the permit to the next in turn, or put it back."""
        turn = self._next_turn()
        if turn is None:
            self.running -= 1
        else:
            turn.set_result(None)

    def _next_turn(self) -> _Turn | None:
        while self._waiting:
            tenant, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            self._waiting_count -= 1
            if turns:
                self._waiting[tenant] = turns
            if not turn.done():
                return turn
        return None

    def _forget(self, tenant: str, turn: _Turn) -> None:
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
