"""What every request gets, whatever becomes of it: an id, a log line, and an end when its caller leaves."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rest_bridge.errors import ApiError, ClientGone, Names, api_error, error_response

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CLIENT_GONE = 499
"""Logged, never sent: there is nobody left to read it."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class RequestContext:
    """One request and what is known of its reply."""

    request_id: str
    method: str
    route: str | None = None
    """The path of the route that took it, as declared; None: none did."""
    status: int | None = None
    """HTTP status of the reply; None: it has not begun."""
    outcome: str = ""
    """For the log, where the status does not tell it: `client_gone`, or the code of an error."""
    stream: Callable[[Receive, Send], Awaitable[None]] | None = None
    """A reply that takes long. It runs after the app has returned, so that no frame of the app, and nothing
    that one holds, lives as long as the stream does."""
    until_revoked: AbstractContextManager[None] = field(default_factory=nullcontext)
    """Ends the block it wraps once the caller's key does not count any more."""
    names: Names = field(default_factory=Names)
    """What the service calls a parameter → what the caller does."""
    refusal_delay: float = 0.0
    """Seconds that a refusal waits: whoever tries keys is slowed down."""
    _began: float = field(default_factory=time.monotonic)

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since it began."""
        return (time.monotonic() - self._began) * 1000

    def log(self) -> None:
        """Write the request's one line; probes ask so often that theirs are for debugging only."""
        is_probe = self.route is not None and self.route.startswith("/health")
        _log.log(
            logging.DEBUG if is_probe else logging.INFO,
            "request",
            request_id=self.request_id,
            method=self.method,
            route=self.route,
            status=self.status,
            ms=round(self.elapsed_ms, 1),
            outcome=self.outcome or ("ok" if (self.status or 500) < 400 else "refused"),
        )


class Connection(Protocol):
    """What the server tells about the connection that a request came on."""

    @property
    def cause(self) -> ApiError | None:
        """Why the server ended the request; None: it did not."""

    async def flushed(self) -> None:
        """Wait until little of what was sent waits for the caller to read, or the connection has ended."""


class RequestContextMiddleware:
    """Gives each request its id, sends it back, turns every exception into a reply, and logs one line.

    Plain ASGI, so that nothing stands between the app and the disconnects of its callers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = RequestContext(_request_id(scope), scope["method"])
        reply = _tagging(send, exchange)
        connection: Connection | None = scope.get("state", {}).get("connection")
        try:
            await self._run_app(exchange, scope, receive, reply)
            if exchange.stream is not None:
                await exchange.stream(receive, reply)
            await _flush(connection)
        except ClientGone:
            cause = connection.cause if connection is not None else None
            exchange.status, exchange.outcome = (
                (cause.status, cause.code) if cause else (_CLIENT_GONE, "client_gone")
            )
        except (Exception, asyncio.CancelledError) as error:
            await _refuse(error, exchange, scope, receive, reply)
        finally:
            exchange.log()

    async def _run_app(self, exchange: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        # The server cuts the body off the reply to a HEAD request; for the app it is a GET.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        state = {**scope.get("state", {}), "exchange": exchange}
        inner = {**scope, "method": method, "state": state}
        try:
            await self._app(inner, receive, send)
        finally:
            exchange.route = getattr(inner.get("route"), "path", None)


async def _flush(connection: Connection | None) -> None:
    """Wait until the caller has taken all but a little of the reply.

    Raises:
        ClientGone: the caller did not read it, and the server ended the connection.

    """
    if connection is not None:
        await connection.flushed()
        if connection.cause is not None:
            raise ClientGone


def _request_id(scope: Scope) -> str:
    """The caller's id, if it is one that may go into logs and headers; else a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _tagging(send: Send, exchange: RequestContext) -> Send:
    header = (b"x-request-id", exchange.request_id.encode("ascii"))

    async def tag(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            message["headers"] = [*message.get("headers", ()), header]
        await send(message)

    return tag


async def _refuse(
    error: BaseException, exchange: RequestContext, scope: Scope, receive: Receive, send: Send
) -> None:
    failure = api_error(error, exchange.request_id, exchange.names)
    exchange.outcome = failure.code
    if exchange.refusal_delay:
        await asyncio.sleep(exchange.refusal_delay)
    # Of a reply that has begun nothing can be taken back: leaving it incomplete tells the caller.
    if exchange.status is None:
        await error_response(failure)(scope, receive, send)


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
