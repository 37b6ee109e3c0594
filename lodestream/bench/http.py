"""An HTTP/1.1 client for streamed answers that costs little CPU, so that it measures the server.

The parser is httptools (llhttp). What arrives is kept with its time and read after the answer's end, so that
reading one answer delays no other's time of arrival by more than one event loop's turn.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

from lodestream_common.errors import SettingError

MAX_ANSWER_BYTES = 64 << 20
"""Longest body of an answer that is kept, in bytes."""


@dataclass(slots=True)
class Answer:
    """One answer: its status, its body in the pieces in which it arrived."""

    status: int = 0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    """Time of arrival, of `time.perf_counter`, and bytes."""
    is_whole: bool = False
    """It came to its end; False: the connection broke before."""

    @property
    def body(self) -> bytes:
        """All the bytes of the body."""
        return b"".join(piece for _, piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a server listens, out of its URL."""

    host: str
    port: int
    is_tls: bool
    path: str
    """Of the API, without a slash at the end: `/v1` unless the URL has another."""

    @classmethod
    def parse(cls, url: str, flag: str = "--url") -> Origin:
        """Read a URL.

        Raises:
            SettingError: it is no http or https URL.

        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise SettingError(
                f"{flag}: {url!r} must be http://HOST:PORT[/PATH], or https, or grpc://HOST:PORT"
            )
        is_tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if is_tls else 80), is_tls, parts.path.rstrip("/") or "/v1")

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


class HttpClient:
    """Sends requests to one server; idle connections are used again.

    Args:
        origin: the server.
        headers: sent with each request.
        tls: how to verify the server, of https.

    """

    def __init__(self, origin: Origin, headers: dict[str, str], tls: ssl.SSLContext | None = None) -> None:
        self._origin = origin
        self._tls = (tls or ssl.create_default_context()) if origin.is_tls else None
        lines = {"Host": origin.authority, "Content-Type": "application/json", **headers}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._idle: list[_Connection] = []

    async def send(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Send one request and read its answer to the end.

        Raises:
            OSError: no connection can be made. One that breaks later gives an answer that is not whole.

        """
        connection = self._take_idle() or await self._connect()
        head = (
            f"{method} {self._origin.path}{path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            answer = await connection.exchange(head.encode() + body)
        except asyncio.CancelledError:
            connection.close()
            raise
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            _Connection, self._origin.host, self._origin.port, ssl=self._tls
        )
        return connection


class _Connection(asyncio.Protocol):
    """One connection, and the answer that is read from it now."""

    def __init__(self) -> None:
        self._transport = asyncio.Transport()
        self._parser = httptools.HttpResponseParser(self)
        self._answer = Answer()
        self._ended: asyncio.Future[None] | None = None
        self._now = 0.0
        self._size = 0
        self.is_reusable = True

    async def exchange(self, request: bytes) -> Answer:
        self._answer, self._size = Answer(), 0
        self._parser = httptools.HttpResponseParser(self)
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._ended
        return self._answer

    def close(self) -> None:
        self.is_reusable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end(is_reusable=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(is_reusable=False)

    # The parser calls what follows by these names.

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MAX_ANSWER_BYTES:
            self.close()
            return
        self._answer.pieces.append((self._now, body))

    def on_message_complete(self) -> None:
        self._answer.is_whole = True
        self._end(is_reusable=self._parser.should_keep_alive())

    def _end(self, *, is_reusable: bool) -> None:
        self.is_reusable = self.is_reusable and is_reusable
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
