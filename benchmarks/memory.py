"""Resident memory of an open stream on which nothing happens."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import psutil

from benchmarks.rest_load import open_stream
from benchmarks.servers import Pair, pair

STREAMS = 500


def measure() -> None:
    """Print KiB per idle open stream, for each server and for both."""
    with pair(backend="simulated", max_concurrency="1024", stall_timeout="3600") as servers:
        asyncio.run(_measure(servers))


async def _measure(servers: Pair) -> None:
    async with AsyncExitStack() as stack:
        await _open(stack, servers, 20)
        before = _resident(servers)
        await _open(stack, servers, STREAMS)
        await asyncio.sleep(2)
        service, bridge = (
            (after - start) / STREAMS / 1024 for after, start in zip(_resident(servers), before, strict=True)
        )
    print(
        f"resident memory per idle open stream, of {STREAMS}: "
        f"service {service:.1f} KiB, bridge {bridge:.1f} KiB, both {service + bridge:.1f} KiB"
    )


async def _open(stack: AsyncExitStack, servers: Pair, count: int) -> None:
    body = {"model": "smollm2-135m-instruct", "prompt": "@sim(stall_at=1) hello", "max_tokens": 64}
    for _ in range(count):
        transport, _ = await open_stream(servers.bridge.address, body)
        stack.callback(transport.close)


def _resident(servers: Pair) -> tuple[int, int]:
    service, bridge = (psutil.Process(s.pid).memory_info().rss for s in (servers.service, servers.bridge))
    return service, bridge
