"""Runs each RPC: reads its message, checks its caller, ends it with a status, and logs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from inference_service.backends.base import EngineDeadError
from inference_service.errors import (
    DeadlineBeforeFirstToken,
    InvalidRequest,
    NotReady,
    RateLimited,
    RequestTimeout,
    RequestTooLarge,
    ServiceError,
    Unauthenticated,
)
from inference_service.rpc import status, tracing
from inference_service.rpc.auth import Access, Caller, Metadata
from inference_service.rpc.quotas import QuotaControl
from inference_service.scheduling.admission import DeadlinePassed, Tenant
from lodestream_common.failed_keys import host_of_peer
from lodestream_common.keys import ANONYMOUS, Level, Priority
from lodestream_common.logs import choose_request_id
from lodestream_common.pacing import INTERVAL_NAME, parse_interval
from lodestream_common.proxies import TrustedProxies, forwarded_addresses
from lodestream_common.request_log import LogSample, loggable_name
from lodestream_common.tracing import Span, Tracer

_log = structlog.get_logger(__name__)
_LEAST_RATE = 100_000
"""Bytes a second at which the largest message has to arrive: gRPC reports a message only once it is whole."""
ABORT_GRACE_SECONDS = 1.0
"""Seconds that we wait until the caller has read what was sent before an error. gRPC still delivers the error
later."""

Context = grpc.aio.ServicerContext[Any, Any]
RequestT = TypeVar("RequestT", bound=Message)
ResultT = TypeVar("ResultT")


@dataclass(slots=True, eq=False)
class RpcCall:
    """A running RPC."""

    method: str
    context: Context
    task: asyncio.Task[Any] | None = field(default_factory=asyncio.current_task)
    began: float = field(default_factory=time.monotonic)
    caller: Caller | None = None
    facts: dict[str, object] = field(default_factory=dict)
    """Fields of the log line beside the common ones: counts and timings, never text."""
    writing_since: float | None = None
    """The start of the write that is still pending, on the monotonic clock; None: no write is pending."""
    request_id: str = ""
    """From the caller's metadata, or generated."""
    model: str = ""
    """As the request has it; empty until its message is read."""
    size: int = 0
    """Bytes of the request's message; 0 until it is read."""
    ended_with: ServiceError | None = None
    """The error with which the service ended the call while it ran."""
    code: grpc.StatusCode = grpc.StatusCode.CANCELLED
    """The status with which the call ended; CANCELLED until it has one."""
    span: Span | None = None
    """None: there are no traces."""
    quotas: dict[str, str] = field(default_factory=dict)
    """Metadata of the reply about the quotas of the key."""
    has_head: bool = False
    """Whether the reply's initial metadata was sent."""
    metadata: Metadata = ()
    """The call's gRPC metadata."""

    def __post_init__(self) -> None:
        # gRPC decodes it anew for each question.
        self.metadata = self.context.invocation_metadata() or ()
        self.request_id = _request_id(self.metadata)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self.began

    def client(self, proxies: TrustedProxies) -> str:
        """The caller's address, without the port; `unix` for a socket file."""
        peer = host_of_peer(self.context.peer())
        if not proxies:
            return peer
        headers = [str(value) for name, value in self.metadata if name == "x-forwarded-for"]
        return proxies.client(peer, forwarded_addresses(headers))

    @property
    def admitted(self) -> Caller:
        """The caller, whose key was checked before the work of the call began."""
        return cast("Caller", self.caller)

    @property
    def tenant(self) -> Tenant:
        """Whose share of queue and workers the call uses."""
        return None if self.caller is None or self.caller.key_id == ANONYMOUS else self.caller.key_id

    @property
    def priority(self) -> Priority:
        """The priority with which the call waits."""
        return Priority.INTERACTIVE if self.caller is None else self.caller.priority

    def max_interval(self) -> float | None:
        """The largest stream interval that the caller accepts, in seconds; None: the caller does not say.

        Raises:
            InvalidRequest: it is no number in the range.

        """
        text = next((value for name, value in self.metadata if name == INTERVAL_NAME), None)
        if text is None:
            return None
        try:
            return parse_interval(str(text))
        except ValueError as error:
            raise InvalidRequest.of(INTERVAL_NAME, f"{error}.") from None

    async def read(self, kind: type[RequestT], limit: int, timeout: float) -> RequestT:
        """Read the request's message.

        gRPC does not parse it: it would end the call with a bare UNKNOWN for invalid bytes, and keep a call
        without a message open without limit.

        Args:
            kind: the type of the message.
            limit: most bytes of the message.
            timeout: seconds that it may take to arrive, beside those that its size takes.

        Raises:
            RequestTimeout: the message does not arrive in time.
            RequestTooLarge: it has more than `limit` bytes.
            InvalidRequest: there is no message, or its bytes are not of this type.

        """
        seconds = timeout + limit / _LEAST_RATE
        try:
            async with asyncio.timeout(seconds):
                data = await self.context.read()
        except TimeoutError:
            raise RequestTimeout(seconds) from None
        if data is grpc.aio.EOF:
            raise InvalidRequest.of("", "carries no message.", "missing_required_parameter")
        self.size = len(data)
        if self.size > limit:
            raise RequestTooLarge(self.size, limit)
        try:
            return kind.FromString(data)
        except DecodeError:
            name = kind.DESCRIPTOR.name
            raise InvalidRequest.of(
                "",
                f"is no {name}: its bytes are no protobuf message, or a string is no UTF-8.",
            ) from None

    async def send_head(self) -> None:
        """Send the reply's initial metadata, if that was not done before."""
        if not self.has_head:
            self.has_head = True
            head = (("x-request-id", self.request_id), *self.quotas.items())
            await self.context.send_initial_metadata(head)

    async def write(self, message: Message) -> None:
        """Send one message of the stream, not the last one. Waits while the caller does not read."""
        await self.send_head()
        self.writing_since = time.monotonic()
        await self.context.write(_serialized(message))
        self.writing_since = None

    def end_with(self, error: ServiceError) -> None:
        """Cancel the running call and send this error to its caller."""
        if self.ended_with is None and self.task is not None:
            self.ended_with = error
            self.task.cancel()


class RunningCalls:
    """The RPCs that run now."""

    def __init__(
        self,
        access: Access,
        quotas: QuotaControl,
        max_message_bytes: int,
        body_timeout: float,
        *,
        tracer: Tracer | None = None,
        log_sample: LogSample | None = None,
        proxies: TrustedProxies | None = None,
    ) -> None:
        self._proxies = TrustedProxies() if proxies is None else proxies
        self._log_sample = log_sample or LogSample({})
        self._access = access
        self._quotas = quotas
        self._tracer = tracer
        self._max_message_bytes = max_message_bytes
        self._body_timeout = body_timeout
        self.observers: list[Callable[[RpcCall, str], None]] = []
        """Called with each RPC that ended and its outcome."""
        self._running: set[RpcCall] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[RpcCall]:
        return iter(tuple(self._running))

    async def wait_idle(self, seconds: float) -> bool:
        """Wait until no call runs, at most `seconds`; True if none does."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def handler(
        self,
        name: str,
        request: type[RequestT],
        level: Level,
        answer: Callable[[RpcCall, RequestT], Awaitable[Message]],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of an RPC, with one answer or with a stream of them.

        A stream, too, has a handler for one answer: on the wire both are the same, and gRPC sends the last
        message together with the status.

        Args:
            name: of the method, for the log.
            request: the type of its message.
            level: the level that the caller's key needs.
            answer: does the work, and returns the last message; a stream writes those before it to the call.
                Its errors become the status of the call.

        """

        async def handle(_: Any, context: Context) -> Message | None:
            return await self._run(
                RpcCall(name, context), level, lambda call: self._answer(call, request, answer)
            )

        return grpc.stream_unary_rpc_method_handler(handle, None, _serialized)

    def observed(
        self, handler: grpc.RpcMethodHandler[Any, Any], name: str, level: Level
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """A library's RPC that streams both ways, with our check of its caller and our log line."""
        respond = cast("Callable[[Any, Context], AsyncIterator[Any]]", handler.stream_stream)

        async def handle(requests: Any, context: Context) -> None:
            async def answer(call: RpcCall) -> None:
                async for response in respond(requests, context):
                    await call.write(response)

            await self._run(RpcCall(name, context), level, answer)

        return grpc.stream_stream_rpc_method_handler(handle, handler.request_deserializer, None)

    def refused(self, name: str, error: ServiceError) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of an RPC that is always refused with this error."""

        async def refuse(call: RpcCall) -> None:
            raise error

        async def handle(_: Any, context: Context) -> None:
            await self._run(RpcCall(name, context), None, refuse)

        return grpc.stream_stream_rpc_method_handler(handle, None, _serialized)

    async def _answer(
        self, call: RpcCall, kind: type[RequestT], answer: Callable[[RpcCall, RequestT], Awaitable[ResultT]]
    ) -> ResultT:
        message = await call.read(kind, self._max_message_bytes, self._body_timeout)
        return await answer(call, message)

    async def _run(
        self, call: RpcCall, needed: Level | None, work: Callable[[RpcCall], Awaitable[ResultT]]
    ) -> ResultT | None:
        """Do the work of one RPC: check the caller, turn every exception into a status, write one log line.

        Returns:
            The result of the work; None where the call was ended with an error.

        """
        self._running.add(call)
        self._idle.clear()
        outcome = "cancelled"
        if self._tracer is not None:
            attributes = tracing.first_attributes(call.method, call.request_id)
            call.span = self._tracer.start_server_span(call.method, call.metadata, attributes)
        try:
            call.caller = self._access.identify(call.metadata)
            if needed is not None:
                caller = self._access.admit(call.caller, needed)
                call.quotas |= await self._quotas.count_request(caller)
            result = await work(call)
            await call.send_head()
            outcome, call.code = "ok", grpc.StatusCode.OK
            return result
        except asyncio.CancelledError:
            if call.ended_with is None:
                raise
            outcome = await self._refuse(call, call.ended_with)
        except grpc.aio.InternalError:
            # The caller left while we sent; gRPC cancels the call soon.
            raise asyncio.CancelledError from None
        except Exception as error:
            outcome = await self._refuse(call, _expected(error) or error)
        finally:
            self._running.discard(call)
            if not self._running:
                self._idle.set()
            self._write_log_line(call, outcome)
            for observe in self.observers:
                observe(call, outcome)
            if call.span is not None:
                tracing.end_span(call.span, call.method, outcome, call.code, call.facts)
        return None

    async def _hold_refusal(self, call: RpcCall) -> None:
        """Delay the refusal of a failed key, at most until half of the time before the call's deadline."""
        # The call already ends with an error: `end_with` must not cancel it once more.
        call.task = None
        left = cast("float | None", call.context.time_remaining())
        delay = self._access.refusal_delay(call.metadata, call.client(self._proxies))
        await asyncio.sleep(delay if left is None else min(delay, left / 2))

    async def _refuse(self, call: RpcCall, error: Exception) -> str:
        """End a call with the status of an error. Returns the reason, for the log."""
        if isinstance(error, Unauthenticated) and (call.caller is None or not call.caller.is_active):
            await self._hold_refusal(call)
        if isinstance(error, ServiceError):
            reason, ended = status.reason_of(error), status.status_of(error)
        else:
            _log.exception("rpc_failed", request_id=call.request_id, method=call.method)
            reason, ended = status.INTERNAL.reason, status.internal_status(call.request_id)
        call.code = ended.code
        if isinstance(error, RateLimited):
            call.quotas |= error.metadata
        with suppress(grpc.aio.AbortError, grpc.aio.InternalError, asyncio.TimeoutError):
            async with asyncio.timeout(ABORT_GRACE_SECONDS):
                await call.send_head()
                await call.context.abort_with_status(ended)
        return reason.lower()

    def _write_log_line(self, call: RpcCall, outcome: str) -> None:
        sample = self._log_sample.fields(call.request_id, outcome)
        if sample is None:
            return
        _log.info(
            "rpc",
            request_id=call.request_id,
            method=call.method,
            client=call.client(self._proxies),
            key=call.caller.key_name if call.caller else None,
            key_id=call.caller.key_id if call.caller else None,
            outcome=outcome,
            total_ms=round(call.elapsed_seconds * 1e3, 1),
            **{"model": loggable_name(call.model), **call.facts, **sample},
        )


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _expected(error: Exception) -> ServiceError | None:
    """The error that a caller gets for an expected exception of the generation; None: it is unexpected."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, DeadlinePassed):
        return DeadlineBeforeFirstToken()
    if isinstance(error, EngineDeadError):
        return NotReady("its engine is down", retry_after=5.0)
    return None


def _request_id(metadata: Metadata) -> str:
    given = next((value for name, value in metadata if name == "x-request-id"), None)
    return choose_request_id(given if isinstance(given, str) else None, "req-")
