"""Slowing down whoever tries keys."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import unquote

FREE_FAILURES = 5
"""Failed keys of an address that are refused at once."""
SECONDS_PER_FAILURE = 1.0
"""Until one more is."""
LONGEST_DELAY = 5.0
"""Seconds."""
_MOST_ADDRESSES = 10_000


class FailedKeys:
    """How long the refusal of a failed key has to wait, by the address that it came from.

    Five are refused at once, then one a second; those that come faster wait for their turn, at most five
    seconds each. A key that counts is never asked about here, whatever else its address sends. The addresses
    of an IPv6 network of 64 bits are one. At most 10,000 addresses are remembered, those that failed last.

    Args:
        clock: seconds, as of a monotonic clock.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()
        """Address → when all its failures so far are paid for."""

    def __len__(self) -> int:
        return len(self._due)

    def delay(self, address: str) -> float:
        """Note one failure, and tell how many seconds its refusal waits."""
        now, source = self._clock(), _source(address)
        free = FREE_FAILURES * SECONDS_PER_FAILURE
        due = max(self._due.pop(source, now), now) + SECONDS_PER_FAILURE
        self._due[source] = min(due, now + free + LONGEST_DELAY)
        if len(self._due) > _MOST_ADDRESSES:
            self._due.popitem(last=False)
        return max(0.0, self._due[source] - now - free)


def host_of_peer(peer: str) -> str:
    """The host of a peer as gRPC writes it: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`."""
    kind, _, rest = peer.partition(":")
    return unquote(rest).rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind


def _source(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False))
