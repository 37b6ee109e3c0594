"""Raw HTTP, for requests that client libraries do not send and details that they hide."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

TIMEOUT_SECONDS = 10.0


class Wire:
    """One connection to a bridge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(raw)

    def post(self, path: str, body: dict[str, Any], *headers: str) -> None:
        """Send a whole request."""
        content = json.dumps(body).encode()
        self.send(head("POST", path, f"content-length: {len(content)}", *headers) + content)

    async def read_until(self, mark: bytes) -> bytes:
        """Read up to the mark."""
        return await asyncio.wait_for(self.reader.readuntil(mark), TIMEOUT_SECONDS)

    async def read_some(self) -> bytes:
        """Read the next bytes; empty at the end."""
        return await asyncio.wait_for(self.reader.read(65536), TIMEOUT_SECONDS)

    async def read_head(self) -> tuple[int, dict[str, str]]:
        """Read the status and the headers of a reply."""
        lines = (await self.read_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers

    async def read_reply(self) -> tuple[int, dict[str, str], Any]:
        """Read a whole reply with a JSON body."""
        status, headers = await self.read_head()
        content = await asyncio.wait_for(
            self.reader.readexactly(int(headers["content-length"])), TIMEOUT_SECONDS
        )
        return status, headers, json.loads(content)

    async def read_chunk(self) -> bytes:
        """Read one chunk of a chunked reply; empty at the end."""
        size = int(await self.read_until(b"\r\n"), 16)
        return (await asyncio.wait_for(self.reader.readexactly(size + 2), TIMEOUT_SECONDS))[:-2]

    async def has_ended(self) -> bool:
        """Whether the other side has closed the connection; unread bytes are dropped."""
        while await self.read_some():
            pass
        return True


def head(method: str, path: str, *headers: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: localhost", *headers, "", ""]).encode("latin-1")


@asynccontextmanager
async def connect(address: str) -> AsyncGenerator[Wire, None]:
    """Open a connection that is closed with the context."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
