"""One RPC from its first byte to its log line: identity, errors, and how it ends."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from inference_service import status
from inference_service.access import Access, Caller, Metadata
from inference_service.backends.errors import EngineDeadError
from inference_service.errors import DeadlineBeforeFirstToken, NotReady, ServiceError
from inference_service.generation.deadline import DeadlinePassed
from lodestream_common.keys import Level

_log = structlog.get_logger(__name__)
FAREWELL_SECONDS = 1.0
"""How long an error waits until its caller has read what was sent before. It arrives later, too, but
nothing of ours waits for it any more."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True, eq=False)
class Call:
    """A running RPC."""

    method: str
    request_id: str
    context: Context
    task: asyncio.Task[Any] | None = field(default_factory=asyncio.current_task)
    began: float = field(default_factory=time.monotonic)
    caller: Caller | None = None
    facts: dict[str, object] = field(default_factory=dict)
    """What the log line says beside the common fields: counts and timings, never text."""
    writing_since: float | None = None
    """Since when a message has been waiting for the caller to read, on the monotonic clock."""
    _verdict: ServiceError | None = None

    @property
    def verdict(self) -> ServiceError | None:
        return self._verdict

    async def write(self, message: Any) -> None:
        """Send one message of the stream; waits while the caller does not read."""
        self.writing_since = time.monotonic()
        await self.context.write(message)
        self.writing_since = None

    def end_with(self, error: ServiceError) -> None:
        """End the call from outside, with this error for its caller."""
        if self._verdict is None and self.task is not None:
            self._verdict = error
            self.task.cancel()


class Calls:
    """The RPCs that run now."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._running: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Call]:
        return iter(tuple(self._running))

    async def wait_idle(self, seconds: float) -> bool:
        """Wait until no call runs, at most `seconds`; True if none does."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except (asyncio.TimeoutError, TimeoutError):
            return False
        return True

    @asynccontextmanager
    async def run(self, context: Context, method: str, needed: Level) -> AsyncIterator[Call]:
        """Wrap the body of one RPC: check the caller, turn every exception into a status, log once."""
        metadata: Metadata = context.invocation_metadata() or ()
        call = Call(method, _request_id(metadata), context)
        self._running.add(call)
        self._idle.clear()
        outcome = "cancelled"
        try:
            await context.send_initial_metadata((("x-request-id", call.request_id),))
            call.caller = self._access.check(metadata, needed)
            yield call
            outcome = "ok"
        except asyncio.CancelledError:
            if call.verdict is None:
                raise
            outcome = await self._refuse(call, call.verdict)
        except grpc.aio.InternalError:
            # What was being sent found no caller any more: the cancellation is on its way.
            raise asyncio.CancelledError from None
        except Exception as error:
            outcome = await self._refuse(call, _expected(error) or error)
        finally:
            self._running.discard(call)
            if not self._running:
                self._idle.set()
            _write_log_line(call, outcome)

    async def _refuse(self, call: Call, error: Exception) -> str:
        """End a call with an error's status; the reason, for the log."""
        if isinstance(error, ServiceError):
            reason, told = status.reason_of(error), status.status_of(error)
        else:
            _log.exception("rpc.failed", request_id=call.request_id, method=call.method)
            reason, told = status.INTERNAL.reason, status.internal_status(call.request_id)
        with suppress(grpc.aio.AbortError, grpc.aio.InternalError, asyncio.TimeoutError):
            await asyncio.wait_for(call.context.abort_with_status(told), FAREWELL_SECONDS)
        return reason.lower()


def _expected(error: Exception) -> ServiceError | None:
    """What an exception of the generation means to the caller, if anything."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, DeadlinePassed):
        return DeadlineBeforeFirstToken()
    if isinstance(error, EngineDeadError):
        return NotReady("its engine is down", retry_after=5.0)
    return None


def _request_id(metadata: Metadata) -> str:
    for name, value in metadata:
        if name == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return f"req-{uuid.uuid4().hex}"


def _write_log_line(call: Call, outcome: str) -> None:
    _log.info(
        "rpc",
        request_id=call.request_id,
        method=call.method,
        key=call.caller.key_name if call.caller else None,
        outcome=outcome,
        total_ms=round((time.monotonic() - call.began) * 1e3, 1),
        **call.facts,
    )
