"""A bounded queue whose tenants take turns, and share its places."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping
from typing import Generic, TypeVar

Tenant = str | None
"""Whose work it is: the id of a key; None: there are no keys, and everybody is one."""

T = TypeVar("T")


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
