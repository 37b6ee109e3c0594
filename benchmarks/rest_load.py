"""A REST client that costs next to nothing, so that what is measured is the servers."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

import uvloop

_TEXT = re.compile(rb'"text":"[^"]')
_TOKENS = re.compile(rb'"completion_tokens":(\d+)')


@dataclass(slots=True)
class Stream(asyncio.Protocol):
    """One streamed completion. What arrives is kept, and read only after the end."""

    began: float
    """When the clock started, of `time.perf_counter`."""
    first_text_seconds: float = 0.0
    received: list[bytes] = field(default_factory=list)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        if not self.first_text_seconds and _TEXT.search(data):
            self.first_text_seconds = time.perf_counter() - self.began
        self.opened.set()
        if data.endswith((b"data: [DONE]\n\n", b"0\r\n\r\n")):
            self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.opened.set()
        self.ended.set()

    @property
    def tokens(self) -> int:
        """Completion tokens, as the answer says itself.

        Raises:
            RuntimeError: the answer is not a whole stream.
        """
        answer = b"".join(self.received)
        found = _TOKENS.search(answer)
        if found is None:
            raise RuntimeError(answer[:2000].decode(errors="replace"))
        return int(found[1])


async def open_stream(
    address: str, body: dict[str, Any], began: float = 0.0
) -> tuple[asyncio.Transport, Stream]:
    """Post a streamed completion on a connection of its own; returns when its answer begins."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    transport, stream = await loop.create_connection(lambda: Stream(began), host, int(port))
    text = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n\r\n"
    )
    transport.write(head.encode() + text)
    await stream.opened.wait()
    return transport, stream


async def _completion(address: str, body: dict[str, Any], began: float) -> Stream:
    transport, stream = await open_stream(address, body, began)
    await stream.ended.wait()
    transport.close()
    return stream


def run(
    address: str, bodies: list[dict[str, Any]], patience: float | None = None
) -> tuple[float, list[float]]:
    """Stream all bodies at once: tokens a second of all together, and each one's time to first text.

    Raises:
        asyncio.TimeoutError: they did not end in `patience` seconds.

    """

    async def all_of_them() -> tuple[float, list[Stream]]:
        began = time.perf_counter()
        streams = await asyncio.gather(*(_completion(address, body, began) for body in bodies))
        return time.perf_counter() - began, streams

    seconds, streams = uvloop.run(asyncio.wait_for(all_of_them(), patience))
    return sum(s.tokens for s in streams) / seconds, [s.first_text_seconds for s in streams]
