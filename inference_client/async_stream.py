"""The stream of one generation's events, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
from google.protobuf.message import Message as ProtoMessage
from grpc import aio
from lodestream.inference.v1 import generate_service_pb2

from inference_client.call import ClientCall
from inference_client.decode import StreamProtocolChecker, cut_short, decode_event
from inference_client.errors import ClosedError, InferenceError, ProtocolError
from inference_client.events import Delta, Event, Generation, GenerationFold, Started, Summary
from inference_client.status import error_from_rpc, rate_limits_of

if TYPE_CHECKING:
    from typing import Self

    Rpc = aio.UnaryStreamCall[
        generate_service_pb2.GenerateRequest, generate_service_pb2.GenerateStreamResponse
    ]

ResponseT = TypeVar("ResponseT", bound=ProtoMessage)


class AsyncStream:
    """The events of one generation: `Started`, any number of `Delta` and `Finished`, one `Summary`.

    The call begins with the first read. Use the stream as a context manager: the end of the block cancels a
    call that still runs. So do `aclose`, cancelling the task that reads, and dropping the last reference.
    Only one task may read a stream.

    Iterating raises any `InferenceError`. After an error or the end there are no more events.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_checker",
        "_client_closed",
        "_ended",
        "_has_output",
        "_has_started",
        "_open",
        "_ready",
        "_rpc",
        "rate_limits",
        "request_id",
    )

    def __init__(
        self,
        open_rpc: Callable[[], Rpc],
        call: ClientCall,
        checker: StreamProtocolChecker,
        client_closed: asyncio.Event,
    ) -> None:
        self.request_id = call.request_id
        """The request id: the one that was sent, and after `Started` the one in the log of the service."""
        self.rate_limits: Mapping[str, str] = {}
        """The `x-ratelimit-` metadata of the reply: limit, remaining and reset of the key's quotas. It
        arrives before `Started`."""
        self._open = open_rpc
        self._call = call
        self._client_closed = client_closed
        self._rpc: Rpc | None = None
        self._ready: deque[generate_service_pb2.GenerateStreamResponse] = deque()
        """Events that arrived with the last one, not decoded yet."""
        self._checker = checker
        self._has_started = False
        self._has_output = False
        self._ended = False

    @property
    def has_ready_event(self) -> bool:
        """Whether the next event has arrived already, in one message with the last one."""
        return bool(self._ready)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        try:
            event = await self._receive()
            if isinstance(event, Delta):
                return event
            if isinstance(event, Started):
                self.request_id = event.request_id or self.request_id
            elif isinstance(event, Summary):
                await self._finish(self._rpc)
        except grpc.RpcError as error:
            self._cancel()
            raise error_from_rpc(error, self.request_id) from error
        except InferenceError as error:
            self._cancel()
            error.request_id = error.request_id or self.request_id
            raise
        except asyncio.CancelledError:
            self._raise_if_closed()
            self._cancel()
            raise
        return event

    async def text(self) -> AsyncGenerator[str, None]:
        """Yield the new texts of the first choice that are not empty."""
        async for event in self:
            if isinstance(event, Delta) and event.choice_index == 0 and event.text:
                yield event.text

    async def collect(self) -> Generation:
        """Read the whole stream into one answer.

        Raises:
            RuntimeError: events were read before, and are not stored.

        """
        if self._rpc is not None or self._ended:
            raise RuntimeError("collect() needs a stream of which nothing was read before.")
        fold = GenerationFold()
        async for event in self:
            fold.add(event)
        return replace(fold.result(), rate_limits=self.rate_limits)

    async def aclose(self) -> None:
        """Cancel the call if it still runs. Safe to call twice, and from another task."""
        self._cancel()

    def __del__(self) -> None:
        # At interpreter exit the loop may be closed, which has ended every call.
        with contextlib.suppress(AttributeError, RuntimeError):
            self._cancel()

    async def _receive(self) -> Event:
        """Receive the next event; a `Started` of a further attempt is skipped."""
        while True:
            if self._rpc is None:
                self._rpc = self._open()
            try:
                event = await self._next_event(self._rpc)
            except grpc.RpcError as error:
                await self._begin_again(error)
                continue
            if event is None:
                raise cut_short()
            if not isinstance(event, Started):
                self._has_output = True
                return event
            if not self._has_started:
                self._has_started = True
                return event

    async def _next_event(self, rpc: Rpc) -> Event | None:
        """Receive the next event of a kind that the client knows; None: the call ended with status OK."""
        event = None
        while event is None:
            if not self._ready:
                if not self._has_started:
                    self.rate_limits = rate_limits_of(await rpc.initial_metadata())
                message = await rpc.read()
                if message is aio.EOF:
                    return None
                self._ready.append(cast("generate_service_pb2.GenerateStreamResponse", message))
                self._ready.extend(self._ready[0].further)
            event = decode_event(self._ready.popleft())
        self._checker.check(event)
        return event

    async def _begin_again(self, failure: grpc.RpcError) -> None:
        """Prepare another attempt. After the first output there is none, since its output could differ.

        Raises:
            grpc.RpcError, InferenceError: there is no further attempt.

        """
        if self._has_output or (self._has_started and not self._call.can_restart_stream):
            raise failure
        pause = self._call.pause_after(failure)
        self._rpc = None
        self._checker.restart()
        await wait_until(self._client_closed, pause)
        if self._ended:
            raise ClosedError("The stream was closed.")

    async def _finish(self, rpc: Rpc | None) -> None:
        """Read the status, so that a caller who closes the stream now does not cancel a finished call."""
        # The answer is complete with the summary, also if the connection breaks now.
        with contextlib.suppress(grpc.RpcError):
            while rpc is not None and await self._next_event(rpc) is not None:
                pass
        self._ended = True

    def _cancel(self) -> None:
        self._ended = True
        if self._rpc is not None:
            self._rpc.cancel()

    def _raise_if_closed(self) -> None:
        """Tell a closed stream or client from a cancelled reader: closing cancels the call, but not the
        task.
        """
        if (self._ended or self._client_closed.is_set()) and not is_being_cancelled():
            self._ended = True
            raise ClosedError(
                "The stream was closed while it was read.", request_id=self.request_id
            ) from None


async def only_message(rpc: aio.UnaryStreamCall[Any, ResponseT]) -> ResponseT:
    """Read the only answer of a call; cancelling the waiting task cancels the call.

    grpc.aio leaks more than a kilobyte for each cancelled task that waits in its core (grpc#43360). So a
    second task waits there, which nobody cancels. It ends soon after its call is cancelled.
    """
    reading = asyncio.ensure_future(_read_all(rpc))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        rpc.cancel()
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


async def _read_all(rpc: aio.UnaryStreamCall[Any, ResponseT]) -> ResponseT:
    message = await rpc.read()
    if message is aio.EOF:
        raise ProtocolError("The service ended the call with status OK, and without an answer.")
    # The status comes after the message, and can still be an error.
    await rpc.read()
    return cast("ResponseT", message)


async def wait_until(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most for this time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def is_being_cancelled() -> bool:
    """Whether somebody has cancelled the current task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
