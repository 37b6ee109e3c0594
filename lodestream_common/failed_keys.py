"""The caller of a call: the text of its key, its host, and the delay after failed keys.

Processes that listen on one port keep the times of failed keys in shared memory.
"""

from __future__ import annotations

import ipaddress
import multiprocessing
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([\x21-\x7e]{1,1024}) *")

FREE_FAILURES = 5
"""Failed keys of one address that are refused without delay."""
SECONDS_PER_FAILURE = 1.0
"""Seconds after which one more failed key is refused without delay."""
MAX_DELAY = 5.0
"""Seconds of the longest delay of a refusal."""
_MAX_ADDRESSES = 10_000
_SLOTS = 65_536
"""Slots for times in shared memory. Addresses whose hashes share a slot are treated as one."""


class FailedKeys:
    """The delay of refusals of failed keys, by the caller's address.

    Five failed keys of an address are refused without delay, then one each second. Faster ones wait, at most
    five seconds each. A valid key is never delayed, whatever else its address sends. All addresses of an IPv6
    network of 64 bits count as one. Only the last 10,000 addresses are stored.

    Args:
        clock: a monotonic clock, in seconds.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()
        """Address → the time from which on it has no delay any more."""

    def __len__(self) -> int:
        return len(self._due)

    def delay(self, address: str) -> float:
        """Record one failed key; the result is the delay of its refusal in seconds."""
        now, free = self._clock(), FREE_FAILURES * SECONDS_PER_FAILURE

        def update(due: float) -> float:
            return min(max(due, now) + SECONDS_PER_FAILURE, now + free + MAX_DELAY)

        return max(0.0, self.exchange(_source(address), update) - now - free)

    def exchange(self, source: str, update: Callable[[float], float]) -> float:
        """Replace the time from which on an address has no delay, and return the new one.

        Args:
            source: the address.
            update: makes the new time from the old one; that of a new address is 0.

        """
        self._due[source] = due = update(self._due.pop(source, 0.0))
        if len(self._due) > _MAX_ADDRESSES:
            self._due.popitem(last=False)
        return due


@dataclass(frozen=True, slots=True)
class SharedTimes:
    """The times of failed keys in memory that several processes share."""

    until: Any
    """Times on the monotonic clock of this machine, by slot."""
    secret: bytes
    """Makes the slots of addresses unpredictable."""

    @classmethod
    def make(cls) -> SharedTimes:
        """Shared memory that is passed on to processes as they are spawned."""
        return cls(multiprocessing.get_context("spawn").RawArray("d", _SLOTS), secrets.token_bytes(16))


class SharedFailedKeys(FailedKeys):
    """The delay of refusals of failed keys, whichever process receives them."""

    def __init__(self, times: SharedTimes, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._times = times

    def exchange(self, source: str, update: Callable[[float], float]) -> float:
        """Replace the time of an address."""
        digest = blake2b(source.encode(), digest_size=8, key=self._times.secret).digest()
        slot = int.from_bytes(digest) % _SLOTS
        self._times.until[slot] = until = update(self._times.until[slot])
        return until


def bearer_token(authorization: str | None) -> str | None:
    """The token of an `authorization: Bearer …` header; None: it is missing or malformed."""
    match = _BEARER.fullmatch(authorization or "")
    return match[1] if match else None


def host_of_peer(peer: str) -> str:
    """The host in gRPC's name of a peer: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`."""
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
