"""Limits of connections: how long a peer may be silent, and how many connections there may be."""

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
"""Seconds for which a connection stays open between two requests. Load balancers usually have 60; more than
that keeps them from sending a request on a connection that is being closed."""
_MIN_BODY_RATE = 500
"""Bytes a second with which a body must arrive after its first byte."""
SPARE_SECONDS = 1.0
"""Seconds for which a connection may be idle while other connections are refused."""
_BYTES_ACKED = slice(120, 128)
"""Place of `tcpi_bytes_acked` in Linux's `struct tcp_info` (linux/tcp.h, since 4.1)."""
_RELEASE_SHARE = 0.9
"""Share of the limit below which the cap counts as no longer reached."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of every connection, in seconds."""

    header_timeout: float
    body_timeout: float
    stall_timeout: float

    @classmethod
    def of(cls, config: BridgeConfig) -> Limits:
        """Read the settings."""
        return cls(config.header_timeout, config.body_timeout, config.stall_timeout)


class Deadlines:
    """The part that a peer must send or read next, and since when. Times are the loop's, in seconds."""

    __slots__ = (
        "_accepted",
        "_accepted_at",
        "_body_last",
        "_body_since",
        "_body_size",
        "_head_since",
        "_idle_since",
        "_limits",
    )

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._head_since = now
        """Since when a head is expected: the first from the start, each later one from its first byte."""
        self._idle_since = now
        """Since when nothing has arrived; infinite: a part of a request has."""
        self._body_since = self._body_last = now
        self._body_size = 0
        self._accepted = 0
        self._accepted_at = now

    @property
    def is_silent(self) -> bool:
        """Whether no byte of the next request has arrived."""
        return self._idle_since < math.inf

    def idle_for(self, now: float) -> float:
        """Seconds since the last request; 0 or less once a byte of the next one has arrived."""
        return now - self._idle_since

    def head_arrived(self, now: float) -> None:
        """Note that bytes arrived that may be a head."""
        self._head_since = min(self._head_since, now)
        self._idle_since = math.inf

    def request_ended(self, now: float, *, has_next: bool) -> None:
        """Note that a response is complete. A next request that has begun to arrive has its time from now."""
        self._head_since = now if has_next else math.inf
        self._idle_since = math.inf if has_next else now

    def is_head_overdue(self, now: float) -> bool:
        """Whether a head has been expected for too long."""
        return now - self._head_since > self._limits.header_timeout

    def expect_body(self, now: float) -> None:
        """Expect a body, or the rest of one whose request was answered already."""
        self._body_since = self._body_last = now
        self._body_size = 0

    def body_arrived(self, size: int, now: float) -> None:
        """Note that a part of the body arrived."""
        self._body_size += size
        self._body_last = now

    def body_paused(self, now: float) -> None:
        """Note that the body does not arrive because this server does not read it."""
        self._body_last = now
        self._body_since = max(self._body_since, now - self._limits.body_timeout)

    def is_body_overdue(self, now: float) -> bool:
        """Whether no part has arrived for too long, or the whole arrives too slowly."""
        timeout = self._limits.body_timeout
        allowed = timeout + self._body_size / _MIN_BODY_RATE
        return now - self._body_last > timeout or now - self._body_since > allowed

    def is_reader_stalled(self, transport: asyncio.Transport, now: float) -> bool:
        """Whether data waits to be sent, and the peer has accepted none of it for too long."""
        if transport.get_write_buffer_size() == 0:
            self._accepted_at = now
            return False
        accepted = _acknowledged(transport)
        if accepted != self._accepted:
            self._accepted, self._accepted_at = accepted, now
        return now - self._accepted_at > self._limits.stall_timeout


def _acknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the peer's kernel has acknowledged. A slow reader acknowledges few, a stalled one none.

    Where the kernel does not report it: a number that changes with the data that waits in this process.
    """
    with suppress(AttributeError, OSError):
        info: bytes = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop
        )
        if len(info) == _BYTES_ACKED.stop:
            return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)
    return -transport.get_write_buffer_size()


class ConnectionCap:
    """The largest number of connections. It logs when it is reached, and when it no longer is."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._refused = 0

    @property
    def is_reached(self) -> bool:
        """Whether connections were refused, and their number has not fallen since."""
        return self._refused > 0

    def accepts(self, count: int) -> bool:
        """Whether there may be so many connections."""
        if count <= self._limit:
            return True
        if not self._refused:
            _log.warning("too_many_connections", max_connections=self._limit)
        self._refused += 1
        return False

    def update(self, count: int) -> None:
        """Note the number of connections now."""
        if self._refused and count < self._limit * _RELEASE_SHARE:
            _log.info("connections_accepted_again", refused=self._refused, connections=count)
            self._refused = 0


def reader_stalled(seconds: float) -> ApiError:
    """Make the error for a response that was not read."""
    return ApiError(READER_STALLED, f"The response was not read for {seconds:g} seconds.")


def overdue(what: str, seconds: float) -> ApiError:
    """Make the error for a request that does not arrive."""
    message = f"The request's {what} did not arrive within {seconds:g} seconds."
    return ApiError(REQUEST_TIMEOUT, message, headers={"connection": "close"})


def too_many() -> ApiError:
    """Make the error for a connection over the limit."""
    return ApiError(NOT_READY, "The server has reached its limit of connections.")
