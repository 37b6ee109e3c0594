"""What one connection may take: how long its peer may be silent, and how many there may be."""

from __future__ import annotations

import asyncio
import math
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

import structlog

from rest_bridge.config import BridgeConfig
from rest_bridge.errors import NOT_READY, READER_STALLED, REQUEST_TIMEOUT, ApiError

IDLE_SECONDS = 75
"""How long a connection stays open between two requests: longer than the usual 60 of load balancers, so that
none of them sends a request into a connection that is just being closed."""
_LEAST_RATE = 500
"""Bytes a second that a body arrives with at least, beyond the time that its first byte may take."""
SPARE_SECONDS = 1.0
"""How long a connection may be without a request where others are waiting for its place."""
_BYTES_ACKED = slice(120, 128)
"""Where Linux's `struct tcp_info` has `tcpi_bytes_acked` (linux/tcp.h, since 4.1)."""
_CALM = 0.9
"""Part of the limit below which connections are no longer said to be too many."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of every connection, in seconds."""

    header_timeout: float
    body_timeout: float
    stall_timeout: float

    @classmethod
    def of(cls, config: BridgeConfig) -> Limits:
        """Those of the settings."""
        return cls(config.header_timeout, config.body_timeout, config.stall_timeout)


class Deadlines:
    """What the peer of one connection owes, and since when. Times are of the loop's clock, in seconds."""

    __slots__ = (
        "_body_last",
        "_body_since",
        "_body_size",
        "_head_since",
        "_idle_since",
        "_limits",
        "_taken",
        "_taken_at",
    )

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._head_since = now
        """Since when a head is due: the first from the beginning, each later one from its first byte."""
        self._idle_since = now
        """Since when nothing has arrived; infinite: something has."""
        self._body_since = self._body_last = now
        self._body_size = 0
        self._taken = 0
        self._taken_at = now

    @property
    def is_silent(self) -> bool:
        """Whether nothing of the next request has arrived."""
        return self._idle_since < math.inf

    def idle_for(self, now: float) -> float:
        """Seconds without a request, and without a byte of one; not above 0 where there is one."""
        return now - self._idle_since

    def head_arrives(self, now: float) -> None:
        """Something came that may be a head."""
        self._head_since = min(self._head_since, now)
        self._idle_since = math.inf

    def request_ended(self, now: float, *, is_next_there: bool) -> None:
        """A reply is complete; what is there of the next request has its time from now."""
        self._head_since = now if is_next_there else math.inf
        self._idle_since = math.inf if is_next_there else now

    def is_head_overdue(self, now: float) -> bool:
        """Whether a head has been due for too long."""
        return now - self._head_since > self._limits.header_timeout

    def expect_body(self, now: float) -> None:
        """A body begins, or the rest of one that nobody wants any more."""
        self._body_since = self._body_last = now
        self._body_size = 0

    def body_arrived(self, size: int, now: float) -> None:
        """A piece of the body came."""
        self._body_size += size
        self._body_last = now

    def body_paused(self, now: float) -> None:
        """The body does not arrive because nobody here reads it."""
        self._body_last = now
        self._body_since = max(self._body_since, now - self._limits.body_timeout)

    def is_body_overdue(self, now: float) -> bool:
        """Whether nothing has come for too long, or all of it too slowly."""
        patience = self._limits.body_timeout
        allowed = patience + self._body_size / _LEAST_RATE
        return now - self._body_last > patience or now - self._body_since > allowed

    def is_reader_stalled(self, transport: asyncio.Transport, now: float) -> bool:
        """Whether something waits to be sent, and the peer has taken none of it for too long."""
        if transport.get_write_buffer_size() == 0:
            self._taken_at = now
            return False
        taken = _acknowledged(transport)
        if taken != self._taken:
            self._taken, self._taken_at = taken, now
        return now - self._taken_at > self._limits.stall_timeout


def _acknowledged(transport: asyncio.Transport) -> int:
    """How many bytes the peer's kernel has taken so far. A slow reader takes few, one that stalls none.

    Where the kernel does not tell, a number that changes with what waits in this process.
    """
    with suppress(AttributeError, OSError):
        info: bytes = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop
        )
        if len(info) == _BYTES_ACKED.stop:
            return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)
    return -transport.get_write_buffer_size()


class ConnectionCap:
    """How many connections there may be. Tells once when it bites, and once when it no longer does."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._refused = 0

    @property
    def is_biting(self) -> bool:
        """Whether connections have been refused, and there are still about as many as there may be."""
        return self._refused > 0

    def takes(self, count: int) -> bool:
        """Whether there may be so many connections."""
        if count <= self._most:
            return True
        if not self._refused:
            _log.warning("too many connections: new ones are refused", max_connections=self._most)
        self._refused += 1
        return False

    def look(self, count: int) -> None:
        """Notice how many there are now."""
        if self._refused and count < self._most * _CALM:
            _log.info("connections are taken again", refused=self._refused, connections=count)
            self._refused = 0


def reader_stalled(seconds: float) -> ApiError:
    """What ended a reply that nobody read."""
    return ApiError(READER_STALLED, f"The reply was not read for {seconds:g} seconds.")


def overdue(what: str, seconds: float) -> ApiError:
    """Make the refusal of a request that does not arrive."""
    message = f"The request's {what} did not arrive within {seconds:g} seconds."
    return ApiError(REQUEST_TIMEOUT, message, headers={"connection": "close"})


def too_many() -> ApiError:
    """Make the refusal of a connection beyond the limit."""
    return ApiError(NOT_READY, "The server has as many connections as it takes.")
