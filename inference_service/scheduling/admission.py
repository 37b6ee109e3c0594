"""Who may use the engine now, and who waits: permits, the fair queue for them, and deadlines."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, NoReturn, TypeVar

from inference_service.errors import DeadlineBeforeFirstToken, NotReady, QueueFull

T = TypeVar("T")

Tenant = str | None
"""Whose work it is: the id of a key; None: there are no keys, and everybody is one."""

Permit = Callable[[], AbstractAsyncContextManager[int]]
"""Waits for a permit; the context holds it. Gives how many are held, this one included.

Raises:
    DeadlinePassed: while waiting.

"""

_Turn = asyncio.Future[None]
"""A place in the queue; done once it has a permit, or an error where it will get none."""


class Admission:
    """A fixed number of permits and a bounded queue that is fair between tenants.

    Tenants with waiting requests take turns and share the places, so one that floods the queue delays and
    refuses itself, not the others.
    """

    def __init__(self, *, capacity: int, queue_limit: int) -> None:
        self._capacity = capacity
        self._waiting: FairQueue[_Turn] = FairQueue(queue_limit)
        self._hold_seconds: float | None = None
        """How long recent requests held a permit; None: there were none yet."""
        self._refusal: str | None = None
        """Why nobody is admitted now; None: everybody is."""
        self._closed = False
        self.running = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        """Admit nobody new. Requests that wait already keep their place."""
        self._closed = True

    def suspend(self, reason: str) -> None:
        """Admit nobody until `resume`, and tell so those who wait. Who holds a permit keeps it."""
        self._refusal = reason
        for turn in self._waiting.drain():
            if not turn.done():
                turn.set_exception(NotReady(reason))

    def resume(self) -> None:
        """Admit again."""
        self._refusal = None

    def check_open(self) -> None:
        """Find out whether anybody may come in.

        Raises:
            NotReady: closed, or suspended.

        """
        if self._closed:
            raise NotReady("it is shutting down")
        if self._refusal is not None:
            raise NotReady(self._refusal)

    def check_space(self, tenant: Tenant) -> None:
        """Find out whether a tenant's request may come in now, before any work is done for it.

        Raises:
            QueueFull: as many as allowed wait already, or as many of this tenant's.

        """
        if self.running >= self._capacity and not self._waiting.has_space(tenant):
            self._refuse(tenant)

    @contextmanager
    def reserve(self, tenant: Tenant, permits: int, deadline: Deadline | None = None) -> Iterator[Permit]:
        """Take places for a request: free permits at once, the rest in the queue. All of them or none.

        Gives what waits for a permit and holds it, as often as there are places. Those that are left when
        the context ends are given back.

        Args:
            tenant: whose turns it takes.
            permits: how many; none needs no place.
            deadline: how long to wait.

        Raises:
            NotReady: closed, or suspended.
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

    def estimate(self, tenant: Tenant) -> float:
        """Seconds that a request would wait now, from how long permits were held lately."""
        if self.running < self._capacity or self._hold_seconds is None:
            return 0.0
        counts = self._waiting.counts
        own = counts.get(tenant, 0)
        before = own + sum(min(count, own + 1) for name, count in counts.items() if name != tenant)
        return (before + 1) * self._hold_seconds / self._capacity

    def _check(self, tenant: Tenant, permits: int, deadline: Deadline | None) -> None:
        self.check_open()
        self.check_space(tenant)
        # A request of more choices than its tenant's share could never come in; alone it may.
        waiting = permits - max(0, self._capacity - self.running)
        if waiting > 0 and self._waiting and not self._waiting.has_space(tenant, waiting):
            self._refuse(tenant)
        wait = self.estimate(tenant)
        if deadline is not None and wait and time.monotonic() + wait > deadline.at:
            raise DeadlineBeforeFirstToken(wait)

    def _refuse(self, tenant: Tenant) -> NoReturn:
        waiting = len(self._waiting) if tenant is None else self._waiting.counts.get(tenant, 0)
        raise QueueFull(waiting, self._next_permit())

    def _enter(self, tenant: Tenant) -> _Turn:
        turn: _Turn = asyncio.get_running_loop().create_future()
        if self.running < self._capacity:
            self.running += 1
            turn.set_result(None)
        else:
            self._waiting.push(tenant, turn)
        return turn

    @asynccontextmanager
    async def _hold(
        self, tenant: Tenant, turns: deque[_Turn], deadline: Deadline | None
    ) -> AsyncIterator[int]:
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

    def _give_back(self, tenant: Tenant, turn: _Turn) -> None:
        if not turn.done() or turn.cancelled():
            self._waiting.discard(tenant, turn)
        elif turn.exception() is None:
            self._release()

    def _release(self) -> None:
        """Hand the permit to the next in turn, or put it back."""
        while (popped := self._waiting.pop()) is not None:
            _, turn = popped
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def _learn(self, held: float) -> None:
        known = held if self._hold_seconds is None else self._hold_seconds
        self._hold_seconds = known + 0.2 * (held - known)

    def _next_permit(self) -> float:
        """Seconds until the queue has moved up by one, from how long permits were held lately."""
        return max(0.1, min(60.0, (self._hold_seconds or 1.0) / self._capacity))


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


class FairQueue(Generic[T]):
    """Items with weights. Tenants take turns; within a tenant, first come is first served.

    A tenant may hold at most half of what the others leave free, so that there is always room for one who
    comes later. Whoever has nothing waiting always has a place, even where the queue is full; so there can
    be more in it than its limit, by one item for each tenant.

    Args:
        limit: the sum of the weights that may wait; 0: nothing may wait.

    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[Tenant, deque[tuple[T, int]]] = OrderedDict()
        self._weights: dict[Tenant, int] = {}
        self._weight = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def counts(self) -> Mapping[Tenant, int]:
        """How many items of each tenant wait, of those who have any."""
        return {tenant: len(items) for tenant, items in self._waiting.items()}

    def has_space(self, tenant: Tenant, weight: int = 1) -> bool:
        """Whether a tenant may add so much now."""
        if not self._limit:
            return False
        own = self._weights.get(tenant, 0)
        if not own:
            return tenant is not None or self._weight < self._limit
        left = self._limit - (self._weight - own)
        return own + weight <= (left if tenant is None else left // 2)

    def push(self, tenant: Tenant, item: T, weight: int = 1) -> None:
        """Add an item behind the tenant's others, whether or not there is space."""
        self._waiting.setdefault(tenant, deque()).append((item, weight))
        self._add(tenant, weight)

    def pop(self, passed_over: Collection[Tenant] = ()) -> tuple[Tenant, T] | None:
        """Take the next item of the tenant whose turn it is, and end its turn; None: there is none.

        Args:
            passed_over: tenants who keep their place, and get nothing now.

        """
        tenant = next((one for one in self._waiting if one not in passed_over), ...)
        if tenant is ...:
            return None
        items = self._waiting.pop(tenant)
        item, weight = items.popleft()
        self._add(tenant, -weight)
        if items:
            self._waiting[tenant] = items
        return tenant, item

    def discard(self, tenant: Tenant, item: T) -> None:
        """Take an item out, if it is still there."""
        items = self._waiting.get(tenant, deque())
        found = next((entry for entry in items if entry[0] is item), None)
        if found is None:
            return
        items.remove(found)
        self._add(tenant, -found[1])
        if not items:
            del self._waiting[tenant]

    def drain(self) -> Iterator[T]:
        """Take everything out."""
        while (popped := self.pop()) is not None:
            yield popped[1]

    def _add(self, tenant: Tenant, weight: int) -> None:
        self._weight += weight
        own = self._weights.get(tenant, 0) + weight
        if own:
            self._weights[tenant] = own
        else:
            self._weights.pop(tenant, None)
