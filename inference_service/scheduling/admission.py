"""Admission to the engine: permits, the fair queue for them, and the deadline that bounds the wait."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, NoReturn, Protocol, TypeVar

from inference_service.errors import DeadlineBeforeFirstToken, NotReady, QueueFull
from lodestream_common.keys import Priority

T = TypeVar("T")

Tenant = str | None
"""The id of a caller's key; None: the server has no keys, and all callers are one tenant."""

Permit = Callable[[], AbstractAsyncContextManager[int]]
"""Waits for a permit, and holds it in the context. Gives how many permits are held, this one included.

Raises:
    DeadlinePassed: while waiting.

"""

_Turn = asyncio.Future[None]
"""A place in the queue. Its result means that it got a permit, an exception that it gets none."""

_INTERACTIVE_PERMITS = 4
"""Permits that interactive requests get for each one of batch requests, while both wait."""


class AdmissionControl(Protocol):
    """The admission to an engine as its users see it, in this process or in that of the engine."""

    @property
    def running(self) -> int:
        """The number of permits that are held."""

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a permit."""

    def close(self) -> None:
        """Refuse new requests. Requests that wait already keep their place."""

    def suspend(self, reason: str) -> None:
        """Refuse new and waiting requests until `resume`. Running requests keep their permits."""

    def resume(self) -> None:
        """Admit requests again."""

    def check_open(self) -> None:
        """Check that requests are admitted at all; see `Admission`."""

    async def check_space(self, tenant: Tenant, priority: Priority = Priority.INTERACTIVE) -> None:
        """Check that there is space for a tenant's request; see `Admission`."""

    def reserve(
        self,
        tenant: Tenant,
        permits: int,
        deadline: Deadline | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> AbstractAsyncContextManager[Permit]:
        """Take the permits of a request; see `Admission`."""

    async def estimate(self, tenant: Tenant, priority: Priority = Priority.INTERACTIVE) -> float:
        """Seconds that a request would wait now; see `Admission`."""


class Admission(AdmissionControl):
    """A fixed number of permits, and for each priority a bounded queue for them that is fair between tenants.

    Tenants with waiting requests take turns and share the places. A tenant that floods the queue delays its
    own requests, and only its own are refused. Interactive requests go before batch ones, which still get a
    fifth of the permits.

    Args:
        capacity: how many permits there are.
        queue_limit: places in each of the queues.

    """

    def __init__(self, *, capacity: int, queue_limit: int) -> None:
        self._capacity = capacity
        self._queues: dict[Priority, FairQueue[_Turn]] = {
            priority: FairQueue(queue_limit) for priority in Priority
        }
        self._since_batch = 0
        """Permits that interactive requests got while batch requests waited, since the last one of batch."""
        self._hold_seconds: float | None = None
        """How long recent requests held a permit, as a moving average; None: there were none yet."""
        self._refusal: str | None = None
        """Why no request is admitted now; None: requests are admitted."""
        self._closed = False
        self._running = 0

    @property
    def running(self) -> int:
        """The number of permits that are held."""
        return self._running

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a permit."""
        return sum(map(len, self._queues.values()))

    def close(self) -> None:
        """Refuse new requests. Requests that wait already keep their place."""
        self._closed = True

    def suspend(self, reason: str) -> None:
        """Refuse new and waiting requests until `resume`. Running requests keep their permits."""
        self._refusal = reason
        for queue in self._queues.values():
            for turn in queue.drain():
                if not turn.done():
                    turn.set_exception(NotReady(reason))

    def resume(self) -> None:
        """Admit requests again."""
        self._refusal = None

    def check_open(self) -> None:
        """Check that requests are admitted at all.

        Raises:
            NotReady: closed, or suspended.

        """
        if self._closed:
            raise NotReady("it is shutting down")
        if self._refusal is not None:
            raise NotReady(self._refusal)

    async def check_space(self, tenant: Tenant, priority: Priority = Priority.INTERACTIVE) -> None:
        """Check that there is space for a tenant's request, before any work is done for it.

        Raises:
            QueueFull: the queue is full, or this tenant's share of it.

        """
        self._check_space(tenant, priority)

    def _check_space(self, tenant: Tenant, priority: Priority) -> None:
        queue = self._queues[priority]
        if self._running >= self._capacity and not queue.has_space(tenant):
            self._refuse(queue, tenant)

    @asynccontextmanager
    async def reserve(
        self,
        tenant: Tenant,
        permits: int,
        deadline: Deadline | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> AsyncIterator[Permit]:
        """Take the permits of a request: free ones at once, the rest as places in the queue. All or none.

        Gives a function that waits for one permit and holds it; it may be called once for each permit. The
        permits and places that are left when the context ends are given back.

        Args:
            tenant: on whose share they count.
            permits: how many; 0 is allowed, also where the queue is full.
            deadline: how long to wait; None: without limit.
            priority: in which queue.

        Raises:
            NotReady: closed, or suspended.
            QueueFull: there are fewer places than that.
            DeadlineBeforeFirstToken: by the duration of recent requests, it would pass in the queue.

        """
        if permits:
            self._check(tenant, permits, deadline, priority)
        queue = self._queues[priority]
        turns = deque([self._enter(queue, tenant) for _ in range(permits)])
        try:
            yield partial(self._hold, queue, tenant, turns, deadline)
        finally:
            while turns:
                self._give_back(queue, tenant, turns.pop())

    async def estimate(self, tenant: Tenant, priority: Priority = Priority.INTERACTIVE) -> float:
        """Seconds that a request would wait now, estimated from how long recent requests held a permit."""
        return self._estimate(tenant, priority)

    def _estimate(self, tenant: Tenant, priority: Priority) -> float:
        if self._running < self._capacity or self._hold_seconds is None:
            return 0.0
        counts = self._queues[priority].counts
        own = counts.get(tenant, 0)
        before = own + sum(min(count, own + 1) for name, count in counts.items() if name != tenant)
        if priority is Priority.INTERACTIVE:
            before += min(len(self._queues[Priority.BATCH]), before // _INTERACTIVE_PERMITS)
        else:
            before += min(len(self._queues[Priority.INTERACTIVE]), (before + 1) * _INTERACTIVE_PERMITS)
        return (before + 1) * self._hold_seconds / self._capacity

    def _check(self, tenant: Tenant, permits: int, deadline: Deadline | None, priority: Priority) -> None:
        self.check_open()
        self._check_space(tenant, priority)
        # A request with more choices than its tenant's share is admitted only while no other request waits.
        waiting = permits - max(0, self._capacity - self._running)
        queue = self._queues[priority]
        if waiting > 0 and queue and not queue.has_space(tenant, waiting):
            self._refuse(queue, tenant)
        wait = self._estimate(tenant, priority)
        if deadline is not None and wait and time.monotonic() + wait > deadline.at:
            raise DeadlineBeforeFirstToken(wait)

    def _refuse(self, queue: FairQueue[_Turn], tenant: Tenant) -> NoReturn:
        waiting = len(queue) if tenant is None else queue.counts.get(tenant, 0)
        raise QueueFull(waiting, self._next_permit())

    def _enter(self, queue: FairQueue[_Turn], tenant: Tenant) -> _Turn:
        turn: _Turn = asyncio.get_running_loop().create_future()
        if self._running < self._capacity:
            self._running += 1
            turn.set_result(None)
        else:
            queue.push(tenant, turn)
        return turn

    @asynccontextmanager
    async def _hold(
        self, queue: FairQueue[_Turn], tenant: Tenant, turns: deque[_Turn], deadline: Deadline | None
    ) -> AsyncIterator[int]:
        turn = turns.popleft()
        try:
            await (turn if deadline is None else deadline.bound(turn))
        except (asyncio.CancelledError, DeadlinePassed):
            self._give_back(queue, tenant, turn)
            raise
        began = time.monotonic()
        try:
            yield self._running
        finally:
            self._record(time.monotonic() - began)
            self._release()

    def _give_back(self, queue: FairQueue[_Turn], tenant: Tenant, turn: _Turn) -> None:
        if not turn.done() or turn.cancelled():
            queue.discard(tenant, turn)
        elif turn.exception() is None:
            self._release()

    def _release(self) -> None:
        """Give the permit to the next in turn; without one, it is free."""
        while (popped := self._next_queue().pop()) is not None:
            _, turn = popped
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1

    def _next_queue(self) -> FairQueue[_Turn]:
        """The queue whose turn it is; an empty one only where both are empty."""
        interactive, batch = self._queues[Priority.INTERACTIVE], self._queues[Priority.BATCH]
        if not batch:
            self._since_batch = 0
            return interactive
        if interactive and self._since_batch < _INTERACTIVE_PERMITS:
            self._since_batch += 1
            return interactive
        self._since_batch = 0
        return batch

    def _record(self, held: float) -> None:
        known = held if self._hold_seconds is None else self._hold_seconds
        self._hold_seconds = known + 0.2 * (held - known)

    def _next_permit(self) -> float:
        """Seconds until the next permit, by how long recent requests held one; range [0.1, 60]."""
        return max(0.1, min(60.0, (self._hold_seconds or 1.0) / self._capacity))


class DeadlinePassed(Exception):
    """Expected: the deadline, minus its margin, has passed."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time to stop a request, on the monotonic clock, a little before the caller's own deadline."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline of a call with this many seconds left.

        The margin for the way back of the answer is a tenth of them, between 20 and 250 ms. For a long time
        it is 3 %, because the gRPC core of some callers rounds a timeout up by as much.
        """
        margin = max(min(max(0.1 * seconds, 0.02), 0.25), 0.03 * seconds)
        return cls(time.monotonic() + seconds - margin)

    async def bound(self, work: Awaitable[T]) -> T:
        """Await `work` until the deadline.

        Raises:
            DeadlinePassed: the deadline passed first; `work` has been cancelled.

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
    """A bounded queue of items with weights. Tenants take turns; each tenant's items keep their order.

    A tenant may take at most half of what the others leave free, so that there is space for tenants who come
    later. A tenant with no item in the queue can always add one, even where the queue is full; so the queue
    can exceed its limit by one item for each tenant.

    Args:
        limit: the greatest sum of weights; 0: nothing may wait.

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
        """The number of items of each tenant that wait; tenants without any are left out."""
        return {tenant: len(items) for tenant, items in self._waiting.items()}

    def has_space(self, tenant: Tenant, weight: int = 1) -> bool:
        """Whether a tenant may add an item of this weight now."""
        if not self._limit:
            return False
        own = self._weights.get(tenant, 0)
        if not own:
            return tenant is not None or self._weight < self._limit
        left = self._limit - (self._weight - own)
        return own + weight <= (left if tenant is None else left // 2)

    def push(self, tenant: Tenant, item: T, weight: int = 1) -> None:
        """Add an item behind the tenant's others, even where there is no space."""
        self._waiting.setdefault(tenant, deque()).append((item, weight))
        self._change_weight(tenant, weight)

    def pop(self, skipping: Collection[Tenant] = ()) -> tuple[Tenant, T] | None:
        """Take the next item of the tenant whose turn it is, and put the tenant last. None: nothing waits.

        Args:
            skipping: tenants who are not served now and keep their place.

        """
        tenant = next((one for one in self._waiting if one not in skipping), ...)
        if tenant is ...:
            return None
        items = self._waiting.pop(tenant)
        item, weight = items.popleft()
        self._change_weight(tenant, -weight)
        if items:
            self._waiting[tenant] = items
        return tenant, item

    def discard(self, tenant: Tenant, item: T) -> None:
        """Remove an item, if it still waits."""
        items = self._waiting.get(tenant, deque())
        found = next((entry for entry in items if entry[0] is item), None)
        if found is None:
            return
        items.remove(found)
        self._change_weight(tenant, -found[1])
        if not items:
            del self._waiting[tenant]

    def drain(self) -> Iterator[T]:
        """Take all items."""
        while (popped := self.pop()) is not None:
            yield popped[1]

    def _change_weight(self, tenant: Tenant, weight: int) -> None:
        self._weight += weight
        own = self._weights.get(tenant, 0) + weight
        if own:
            self._weights[tenant] = own
        else:
            self._weights.pop(tenant, None)
