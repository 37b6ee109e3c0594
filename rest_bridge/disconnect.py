from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive

from rest_bridge.errors import ClientGone


class UntilDisconnect:
    """Cancels the block it wraps as soon as the caller closes the connection.

    The request's body must have been read: whatever else arrives is dropped. The block must end before the
    reply is complete, as servers report that as a disconnect, too.

    Raises:
        ClientGone: on leaving the block, if the caller left first.

    """

    __slots__ = ("_gone", "_listener", "_receive", "_task")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "runs in a task"  # noqa: S101  always true of a coroutine
        self._task = task
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.cancel()
        if not self._gone:
            return
        if self._task.uncancel() > 0 and kind is asyncio.CancelledError:
            # Somebody else cancelled the task, too.
            return
        raise ClientGone from error
