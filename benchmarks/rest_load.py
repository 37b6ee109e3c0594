"""A REST client that costs next to nothing, so that what is measured is the servers."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Stream:
    """What one streamed request gave."""

    tokens: int
    first_text_seconds: float


async def completion(address: str, body: dict[str, Any], began: float) -> Stream:
    """Stream one completion over a connection of its own; times count from `began`."""
    reader, writer = await open_stream(address, body)
    first = 0.0
    tokens = 0
    try:
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                if line.startswith(b"data: [DONE]"):
                    break
                continue
            if not first and b'"text":""' not in line:
                first = time.perf_counter() - began
            if b'"usage":{' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    finally:
        writer.close()
    return Stream(tokens, first)


async def open_stream(
    address: str, body: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Post a streamed completion and return once the head of the answer has been read.

    Raises:
        RuntimeError: the answer is not 200.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    text = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n\r\n"
    )
    writer.write(head.encode() + text)
    answer = await reader.readuntil(b"\r\n\r\n")
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(answer.decode(errors="replace"))
    return reader, writer


async def run(address: str, bodies: list[dict[str, Any]]) -> tuple[float, list[float]]:
    """Stream all bodies at once: tokens a second of all together, and each one's time to first text."""
    began = time.perf_counter()
    streams = await asyncio.gather(*(completion(address, body, began) for body in bodies))
    seconds = time.perf_counter() - began
    return sum(s.tokens for s in streams) / seconds, [s.first_text_seconds for s in streams]
