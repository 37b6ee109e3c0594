"""Middleware of every request: id, log line, error bodies, and an end when its caller leaves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_client import InferenceError
from lodestream_common.failed_keys import bearer_token
from lodestream_common.keys import ANONYMOUS, ApiKey, Keyring
from lodestream_common.logs import choose_request_id
from lodestream_common.pacing import INTERVAL_NAME
from lodestream_common.request_log import LogSample, loggable_name
from lodestream_common.tracing import Span, Tracer
from rest_bridge import tracing
from rest_bridge.errors import INVALID_API_KEY, ApiError, ClientGone, api_error, error_response
from rest_bridge.metrics import BridgeMetrics

_CLIENT_GONE = 499
"""Status in the log of a request whose caller left; it is never sent."""
_KEY_INTERVAL = 0.4
"""Seconds between two checks of a running request's key."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class RequestContext:
    """One request, and the facts about its response that the log line has."""

    request_id: str
    method: str
    client: str | None = None
    """The caller's address, without the port."""
    key: ApiKey | None = None
    """The caller's key, active or not; None: there is none, it is unknown, or the bridge has no keys."""
    is_open: bool | None = None
    """Whether the bridge has no keys; None: the caller was not identified yet."""
    model: str | None = None
    """The model as the request names it; None: it names none, or was not read so far."""
    route: str | None = None
    """The path of the matching route, as declared; None: there is none."""
    status: int | None = None
    """HTTP status of the response; None: it has not started."""
    outcome: str = ""
    """For the log, where the status is not enough: `client_gone`, or the code of an error."""
    api_key: str | None = None
    """The caller's key; the service checks it, too."""
    timeout: float | None = None
    """Seconds; None: no deadline."""
    max_interval: float | None = None
    """Largest stream interval that the caller accepts, in seconds; None: the server's."""
    stream: Callable[[Receive, Send], Awaitable[None]] | None = None
    """A streamed response. It runs after the app has returned, so that no frame of the app, and no object
    that such a frame refers to, lives as long as the stream does."""
    until_revoked: AbstractAsyncContextManager[None] = field(default_factory=nullcontext)
    """Cancels the block inside it soon after the caller's key is revoked."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Protocol fields by path → this request's names of them, where they are not the usual ones."""
    rate_limits: Callable[[], Mapping[str, str]] = dict
    """Headers of the response about the quotas of the caller's key; empty until the service reports them."""
    refusal_delay: float = 0.0
    """Seconds before an error is sent: callers who try many keys are slowed down."""
    first_byte_seconds: float | None = None
    """The start of the response's body, in seconds after the request; None: it did not start."""
    span: Span | None = None
    """None: there are no traces, or the request is a probe."""
    _started_at: float = field(default_factory=time.monotonic)

    @property
    def rpc_options(self) -> dict[str, Any]:
        """The arguments of every RPC for this request."""
        # A service that trusts the bridge (--trusted-proxies) logs this address instead of the bridge's.
        headers = self.span.headers() if self.span is not None else ()
        return {
            "request_id": self.request_id,
            "api_key": self.api_key,
            "timeout": self.timeout,
            "metadata": (("x-forwarded-for", self.client), *headers) if self.client else headers,
        }

    @property
    def generation_options(self) -> dict[str, Any]:
        """The arguments of an RPC that generates."""
        interval = self.max_interval
        options = self.rpc_options
        if interval is not None:
            options["metadata"] = (*options["metadata"], (INTERVAL_NAME, f"{interval:.6f}"))
        return options

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the request arrived."""
        return (time.monotonic() - self._started_at) * 1000

    @property
    def result(self) -> str:
        """The outcome, for the log and the metrics."""
        return self.outcome or ("ok" if (self.status or 500) < 400 else "refused")

    def identify(self, keyring: Keyring, token: str | None) -> None:
        """Find the caller's key."""
        self.is_open = not keyring.requires_key
        if token is not None and not self.is_open:
            self.key = keyring.find(token)

    def log(self, sample: Mapping[str, float]) -> None:
        """Write the request's log line; probes are frequent, so their lines have the level debug.

        Args:
            sample: the fields about the sample that the line belongs to.

        """
        nobody = ANONYMOUS if self.is_open else None
        is_probe = self.route is not None and self.route.startswith(("/health", "/metrics"))
        _log.log(
            logging.DEBUG if is_probe else logging.INFO,
            "request",
            request_id=self.request_id,
            client=self.client,
            key=self.key.name if self.key is not None else nobody,
            key_id=self.key.id if self.key is not None else nobody,
            method=self.method,
            route=self.route,
            model=loggable_name(self.model),
            status=self.status,
            ms=round(self.elapsed_ms, 1),
            outcome=self.result,
            **sample,
        )


class Connection(Protocol):
    """The server's connection on which a request arrived."""

    @property
    def cause(self) -> ApiError | None:
        """Why the server ended the request; None: it did not."""

    async def flushed(self) -> None:
        """Wait until the caller has read nearly all that was sent, or the connection has ended."""


class RequestContextMiddleware:
    """Gives each request its id, returns it in a header, answers every exception, and writes one log line.

    It is plain ASGI: Starlette's base class for middleware would hide the caller's disconnect from the app.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: BridgeMetrics | None,
        keyring: Keyring,
        log_sample: LogSample,
        tracer: Tracer | None = None,
    ) -> None:
        self._app = app
        self._log_sample = log_sample
        self._keyring = keyring
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        client = scope.get("client")
        context = RequestContext(
            choose_request_id(headers.get("x-request-id")), scope["method"], client[0] if client else None
        )
        if self._tracer is not None:
            context.span = tracing.start_span(self._tracer, scope, context.request_id)
        send_with_id = _with_request_id(send, context)
        if self._metrics is not None:
            self._metrics.active.inc()
        connection: Connection | None = scope.get("state", {}).get("connection")
        try:
            await self._run_app(context, scope, receive, send_with_id)
            if context.stream is not None:
                await context.stream(receive, send_with_id)
            await _flush(connection)
        except ClientGone:
            cause = connection.cause if connection is not None else None
            context.status, context.outcome = (
                (cause.status, cause.code) if cause else (_CLIENT_GONE, "client_gone")
            )
        except (Exception, asyncio.CancelledError) as error:
            await _send_error(error, context, scope, receive, send_with_id)
        finally:
            self._log(context, headers)
            self._count(context)
            if context.span is not None:
                tracing.end_span(
                    context.span,
                    method=context.method,
                    path=scope["path"],
                    route=context.route,
                    status=context.status,
                    outcome=context.result,
                )

    def _log(self, context: RequestContext, headers: Headers) -> None:
        sample = self._log_sample.fields(context.request_id, context.result)
        if sample is None:
            return
        if context.is_open is None:
            # No route asked for the key, so it decides nothing.
            context.identify(self._keyring, bearer_token(headers.get("authorization")))
        context.log(sample)

    def _count(self, context: RequestContext) -> None:
        if self._metrics is None:
            return
        self._metrics.active.dec()
        self._metrics.observe(
            route=context.route,
            method=context.method,
            status=context.status,
            outcome=context.result,
            seconds=context.elapsed_ms / 1e3,
            first_byte_seconds=context.first_byte_seconds,
        )

    async def _run_app(self, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        # The server removes the body from the response to a HEAD request; the app handles it as a GET.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        state = {**scope.get("state", {}), "context": context}
        inner = {**scope, "method": method, "state": state}
        try:
            await self._app(inner, receive, send)
        finally:
            context.route = getattr(inner.get("route"), "path", None)


class LoggedCors(CORSMiddleware):
    """Lets web pages call the bridge. Preflights, which it answers itself, have an id and a log line, too.

    Args:
        origins: of the pages.
        logged: puts a `RequestContextMiddleware` around an app.

    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str], logged: Callable[[ASGIApp], ASGIApp]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
        self._preflights = logged(super().__call__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        headers = Headers(scope=scope) if scope["type"] == "http" and scope["method"] == "OPTIONS" else {}
        is_preflight = "origin" in headers and "access-control-request-method" in headers
        await (self._preflights if is_preflight else super().__call__)(scope, receive, send)


async def _flush(connection: Connection | None) -> None:
    """Wait until the caller has read nearly all of the response.

    Raises:
        ClientGone: the caller did not read it, and the server ended the connection.

    """
    if connection is not None:
        await connection.flushed()
        if connection.cause is not None:
            raise ClientGone


def _with_request_id(send: Send, context: RequestContext) -> Send:
    header = (b"x-request-id", context.request_id.encode("ascii"))

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            context.status = message["status"]
            quotas = ((name.encode(), value.encode()) for name, value in context.rate_limits().items())
            message["headers"] = [*message.get("headers", ()), header, *quotas]
        elif context.first_byte_seconds is None and message.get("body"):
            context.first_byte_seconds = context.elapsed_ms / 1e3
        await send(message)

    return send_with_id


async def _send_error(
    error: BaseException, context: RequestContext, scope: Scope, receive: Receive, send: Send
) -> None:
    failure = api_error(error, context.request_id, context.names)
    context.outcome = failure.code
    if isinstance(error, InferenceError):
        context.rate_limits = partial(dict, error.rate_limits)
    if context.refusal_delay:
        await asyncio.sleep(context.refusal_delay)
    # A response that has started cannot become an error: the caller sees that it is incomplete.
    if context.status is None:
        await error_response(failure)(scope, receive, send)


@asynccontextmanager
async def until_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block as soon as the caller closes the connection.

    The request's body must have been read: other messages are dropped. The block must end before the
    response is complete, because servers report that as a disconnect, too.

    Raises:
        ClientGone: the caller left before the block ended.

    """

    async def disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with _until(disconnect, ClientGone):
        yield


@asynccontextmanager
async def until_revoked(keyring: Keyring, token: str | None) -> AsyncIterator[None]:
    """Cancel the block soon after the caller's key is revoked, or expires.

    Args:
        keyring: the keys.
        token: the caller's key, which was active when the request arrived; None: it needs none.

    Raises:
        ApiError: 401: the key was revoked, or expired, before the block ended.

    """
    if token is None or not keyring.requires_key:
        yield
        return
    key = token

    async def revocation() -> None:
        while keyring.verify(key) is not None:  # noqa: ASYNC110  a key file has no event for it
            await asyncio.sleep(_KEY_INTERVAL)

    async with _until(revocation, _no_longer_valid):
        yield


def _no_longer_valid() -> ApiError:
    return ApiError(INVALID_API_KEY, "The API key was revoked, or has expired.")


@asynccontextmanager
async def _until(
    wait: Callable[[], Awaitable[None]], make_error: Callable[[], Exception]
) -> AsyncIterator[None]:
    """Cancel the block as soon as `wait` returns; the block then raises the error.

    A timeout without a time does this: asyncio distinguishes its own cancellation from that of others.
    """
    scope = asyncio.timeout(None)

    async def cancel_block() -> None:
        await wait()
        scope.reschedule(0)

    watcher = asyncio.create_task(cancel_block())
    try:
        async with scope:
            yield
    except Exception as cause:
        if scope.expired():
            raise make_error() from cause
        raise
    finally:
        watcher.cancel()
    if scope.expired():
        raise make_error()
