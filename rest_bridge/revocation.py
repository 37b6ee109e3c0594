from __future__ import annotations

import asyncio
from types import TracebackType

from lodestream_common.keys import Keyring
from rest_bridge.errors import INVALID_API_KEY, ApiError

INTERVAL = 0.4
"""Seconds between two looks at a running request's key."""


class UntilRevoked:
    """Cancels the block it wraps soon after the caller's key was revoked.

    Args:
        keyring: the keys.
        token: the caller's, active when the request was let in; None: it needs none.

    Raises:
        ApiError: 401, on leaving the block, if the key was revoked first.

    """

    __slots__ = ("_keyring", "_revoked", "_task", "_timer", "_token")

    def __init__(self, keyring: Keyring, token: str | None) -> None:
        self._keyring = keyring
        self._token = token
        self._revoked = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "runs in a task"  # noqa: S101  always true of a coroutine
        self._task = task
        self._set_timer()

    def _set_timer(self) -> None:
        if self._token is not None and self._keyring.guarded:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def _look(self) -> None:
        if self._token is None or self._keyring.verify(self._token) is not None:
            self._set_timer()
            return
        self._revoked = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._revoked:
            return
        if self._task.uncancel() > 0 and kind is asyncio.CancelledError:
            # Somebody else cancelled the task, too.
            return
        raise ApiError(INVALID_API_KEY, "The API key was revoked.") from error
