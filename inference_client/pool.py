"""The connections of one client: as many as its open calls need."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

CALLS_PER_CONNECTION = 64
"""Open calls from which on another connection is opened. The service allows 100, and counts a call that was
cancelled until it has heard of it: one more waits, unseen, in the gRPC core."""
MAX_CONNECTIONS = 32
"""Of one client to each replica. More calls share what there is."""


class Counted(Protocol):
    """A connection with its open calls."""

    open_calls: int


ConnectionT = TypeVar("ConnectionT", bound=Counted)


class Pool(Generic[ConnectionT]):
    """Opens connections, and finds the one with the fewest open calls. Safe to use from any thread.

    Args:
        connect: opens one more connection.

    """

    def __init__(self, connect: Callable[[], ConnectionT]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._opened: list[ConnectionT] = []

    @property
    def opened(self) -> tuple[ConnectionT, ...]:
        """Every connection."""
        with self._lock:
            return tuple(self._opened)

    def begin(self) -> ConnectionT:
        """Take a connection for one call, which has to be ended with `end`."""
        with self._lock:
            best = min(self._opened, key=lambda connection: connection.open_calls, default=None)
            if best is None or (
                best.open_calls >= CALLS_PER_CONNECTION and len(self._opened) < MAX_CONNECTIONS
            ):
                best = self._connect()
                self._opened.append(best)
            best.open_calls += 1
            return best

    def end(self, connection: ConnectionT) -> None:
        """Count a call as over."""
        with self._lock:
            connection.open_calls -= 1
