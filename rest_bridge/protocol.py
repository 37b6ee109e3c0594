"""The HTTP protocol of a connection: strict parsing of requests, and its time limits."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from lodestream_common.logs import choose_request_id
from rest_bridge.errors import ApiError, error_response, invalid
from rest_bridge.limits import (
    SPARE_SECONDS,
    ConnectionCap,
    Deadlines,
    Limits,
    overdue,
    reader_stalled,
    too_many,
)

HEAD_LIMIT = 64 * 1024
"""Largest size in bytes of a request line with its headers; also of the trailers of a body."""
_VERSIONS = ("1.0", "1.1")
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
"""`uri-host [":" port]` (RFC 9110, section 7.2); empty where the target has no authority."""
_OFFERS = (b"upgrade", b"http2-settings")
"""The headers of an offer to upgrade (RFC 7540, section 3.2), beside `Connection`, which names them."""

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, and values, in the order in which they arrived."""


def check_head(version: str, url: bytes, headers: Headers) -> None:
    """Check that a request has only one meaning to all servers that may read it.

    Raises:
        ApiError: its head is too large, its HTTP version or transfer coding is unsupported, or it does not
            have exactly one valid Host.

    """
    if version not in _VERSIONS:
        raise invalid(None, "The request is neither HTTP/1.1 nor HTTP/1.0.")
    if len(url) + sum(len(name) + len(value) + 4 for name, value in headers) > HEAD_LIMIT:
        raise too_large_head()
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise invalid("host", "A request has exactly one Host header.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise invalid("host", "The Host header must be a host, or host:port.")
    if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in headers):
        raise invalid("transfer-encoding", "The only supported transfer coding is chunked.")


def too_large_head() -> ApiError:
    """Make the error for a head over the limit."""
    return invalid(None, f"The request's head is larger than the limit of {HEAD_LIMIT} bytes.")


def without_offer(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """A request's head without its offer to upgrade."""
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode("ascii"))]
    for name, value in headers:
        if name in _OFFERS:
            continue
        kept = _without_offers(value) if name == b"connection" else value
        if kept or name != b"connection":
            lines.append(name + b": " + kept)
    return b"\r\n".join([*lines, b"", b""])


def _without_offers(connection: bytes) -> bytes:
    options = (option.strip() for option in connection.split(b","))
    return b", ".join(option for option in options if option.lower() not in _OFFERS)


_WRITE_HIGH, _WRITE_LOW = 16 * 1024, 4 * 1024
"""Bytes that wait to be sent: above the first the app is paused, below the second it continues."""
_PARSE_BYTES = 4096
"""Bytes that are parsed at once; with pipelined requests, parsing stops only after so many."""

_log = structlog.stdlib.get_logger(__name__)


class BridgeProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which answers malformed HTTP, large heads and late requests with error bodies, too.

    Few pipelined requests are parsed ahead; the others wait as bytes, and reading pauses. The error for a
    malformed request is sent after the responses to the requests before it. Offers to upgrade are declined:
    the head is parsed again without them. Java's own client offers HTTP/2 with its first request.

    Args:
        limits: how long the peer may be silent.
        cap: limits the number of connections.
        args, kwargs: uvicorn's.

    """

    def __init__(self, limits: Limits, cap: ConnectionCap, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._cap = cap
        self._deadlines = Deadlines(limits, self.loop.time())
        self.cause: ApiError | None = None
        """Why this protocol ended the running request; None: it did not."""
        self._in_head = False
        self._in_body = False
        self._framing = 0
        """Bytes of the head so far, or of a body's framing since the last byte of the body itself."""
        self._has_progress = False
        """Whether the bytes that are being parsed contain the start of a head, or a part of a body."""
        self._unread = b""
        """Bytes that have arrived but are not parsed yet."""
        self._running: RequestResponseCycle | None = None
        self._response: _HeadWithBody | None = None
        """What the running request sends."""
        self._parse_error: ApiError | None = None
        """Why a callback stopped the parser."""
        self._refusal: ApiError | None = None
        """The error for a malformed request, until the requests before it have their responses."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a new connection, or refuse it."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(_WRITE_HIGH, _WRITE_LOW)
        if not self._cap.accepts(len(self.connections)):
            self._send_last(too_many(), choose_request_id())

    def connection_lost(self, exc: Exception | None) -> None:
        """Signal the disconnect to the running request, which may not be the last one that was parsed."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._cap.update(len(self.connections))

    async def flushed(self) -> None:
        """Wait until the peer has read nearly all that was sent, or the connection has ended."""
        if self.flow.write_paused:
            await self.flow.drain()

    def check_time(self, now: float) -> None:
        """End the connection if its peer has taken too long. The server calls this regularly.

        Args:
            now: the loop's clock, in seconds.

        """
        if self._deadlines.is_reader_stalled(self.transport, now):
            self.cause = reader_stalled(self._limits.stall_timeout)
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._in_body:
            self._check_body_time(now)
        elif not self._is_running:
            self._check_head_time(now)

    def _check_body_time(self, now: float) -> None:
        if self.pipeline or (self.flow.read_paused and self._is_running):
            self._deadlines.body_paused(now)
        elif self._deadlines.is_body_overdue(now) and self._is_running:
            self.cause = overdue("body", self._limits.body_timeout)
            self.cycle.message_event.set()
        elif self._deadlines.is_body_overdue(now):
            # The response is complete, but the rest of the refused body still arrives.
            self.transport.close()

    def _check_head_time(self, now: float) -> None:
        is_overdue = self._deadlines.is_head_overdue(now)
        if is_overdue and not self._deadlines.is_silent:
            self._close_with(overdue("head", self._limits.header_timeout))
        elif is_overdue or (self._cap.is_reached and self._deadlines.idle_for(now) > SPARE_SECONDS):
            self.transport.close()

    @property
    def _is_running(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def on_message_begin(self) -> None:
        self._in_head = self._has_progress = True
        super().on_message_begin()
        self.scope["state"]["connection"] = self

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers are dropped: the app may have read the headers already (RFC 9110, section 6.5.1).
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        try:
            check_head(self.parser.get_http_version(), self.url, self.headers)
        except ApiError as error:
            self._parse_error = error
            raise
        super().on_headers_complete()
        self._in_head, self._in_body, self._has_progress = False, True, True
        self._deadlines.expect_body(self.loop.time())

    def on_body(self, body: bytes) -> None:
        self._has_progress = True
        if self._is_running:
            self._deadlines.body_arrived(len(body), self.loop.time())
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._in_body:
            self._in_body = False
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Parse arriving bytes, or keep them until they can be parsed."""
        self._unset_keepalive_if_required()
        if not self._is_running:
            self._deadlines.head_arrived(self.loop.time())
        if self._refusal is None:
            self._unread += data
            self._parse()

    def on_response_complete(self) -> None:
        """Continue with the bytes that arrived in the meantime."""
        if self._response is not None:
            self._response.flush()
        super().on_response_complete()
        if self.transport.is_closing():
            return
        now = self.loop.time()
        self._deadlines.request_ended(now, has_next=self._in_head or bool(self._unread))
        if self._in_body:
            self._deadlines.expect_body(now)
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif self._unread:
            self._unset_keepalive_if_required()
            self._parse()

    def _parse(self) -> None:
        data, start = memoryview(self._unread), 0
        while start < len(data) and not self.pipeline and not self._is_over():
            start += self._feed(data[start : start + _PARSE_BYTES])
        self._unread = b"" if self._is_over() else bytes(data[start:])
        if self._unread:
            self.flow.pause_reading()

    def _is_over(self) -> bool:
        return self._refusal is not None or self.transport.is_closing()

    def _feed(self, data: memoryview) -> int:
        """Parse some bytes, and return how many of them were used."""
        was_idle = not (self._in_head or self._in_body)
        self._has_progress = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline()
            return int(offer.args[0])
        except httptools.HttpParserError:
            self._refuse(self._parse_error or invalid(None, "The request is not valid HTTP/1.1."))
        else:
            if self._has_progress:
                self._framing = len(data) if was_idle else 0
            else:
                self._framing += len(data)
            if self._framing > HEAD_LIMIT:
                self._refuse(too_large_head())
        return len(data)

    def _decline(self) -> None:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self._refuse(invalid(None, "The server is not a proxy."))
            return
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(memoryview(without_offer(method, self.url, version, self.headers)))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self._response = _HeadWithBody(cycle)
        cycle.transport = cast("asyncio.Transport", self._response)
        is_old = cycle.scope["http_version"] == "1.0"
        inner = _Unchunked(app, cycle) if is_old else app

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            await inner(scope, partial(self._receive, receive), send)

        super()._start_asgi_task(cycle, run)  # type: ignore[arg-type]

    async def _receive(self, receive: Receive) -> Message:
        """Receive a message for the app.

        Raises:
            ApiError: the body does not arrive in time.

        """
        message = await receive()
        if self.cause is not None and not self.transport.is_closing():
            raise self.cause
        return message

    def _refuse(self, error: ApiError) -> None:
        """Refuse the request that is being parsed, after the responses to the requests before it."""
        broken = self.cycle if self._in_body else None
        if broken is not None and self.pipeline and self.pipeline[0][0] is broken:
            self.pipeline.popleft()
        running = self._running
        if running is not None and running is not broken and not running.response_complete:
            self._refusal = error
        elif broken is not None and broken.response_started:
            self.transport.close()
        else:
            self._close_with(error)

    def _close_with(self, error: ApiError) -> None:
        request_id = choose_request_id()
        self._send_last(error, request_id)
        # As the line of any request; what its head would say is unknown.
        _log.info(
            "request",
            request_id=request_id,
            client=self.client[0] if self.client else None,
            key=None,
            key_id=None,
            method=None,
            route=None,
            model=None,
            status=error.status,
            ms=None,
            outcome=error.code,
        )

    def _send_last(self, error: ApiError, request_id: str) -> None:
        response = error_response(error)
        fixed = ((b"x-request-id", request_id.encode("ascii")), (b"connection", b"close"))
        headers = {**dict(response.raw_headers), **dict(fixed)}
        status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode("ascii")
        lines = (status, *(b"%s: %s" % header for header in headers.items()), b"", bytes(response.body))
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()


class _HeadWithBody:
    """Sends a response's head together with the first part of its body.

    For a small response a system call that sends costs more than all else that uvicorn does.
    """

    __slots__ = ("_cycle", "_has_head", "_head", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._head = b""
        self._has_head = False

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them if they are the head."""
        if self._cycle.response_started and not self._has_head:
            self._has_head, self._head = True, data
        else:
            self.flush(data)

    def flush(self, data: bytes = b"") -> None:
        """Send the head, if it was kept, and further bytes."""
        head, self._head = self._head, b""
        if unsent := head + data:
            self._transport.write(unsent)

    def is_closing(self) -> bool:
        """Whether the connection is being closed."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once all is sent."""
        self.flush()
        self._transport.close()


class _Unchunked:
    """Ends responses without a content-length by closing the connection: HTTP/1.0 has no chunks."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        has_length = True

        async def send_unchunked(message: Message) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name == b"content-length" for name, _ in message.get("headers", ()))
                if not has_length:
                    self._cycle.chunked_encoding = False
            elif not has_length:
                is_last = not message.get("more_body", False)
                self._cycle.expected_content_length = (
                    len(message.get("body", b"")) if is_last else sys.maxsize
                )
            await send(message)

        await self._app(scope, receive, send_unchunked)
