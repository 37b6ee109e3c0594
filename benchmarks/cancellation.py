"""Measures the time from a cancelled call to its free slot in the embedded engine, over both transports."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from statistics import median
from typing import Any

from lodestream_common import logs
from tests.support.transports import Transports, grpc_request, running_transports

MODEL = "smollm2-135m-instruct"
OTHER_STREAMS = 3
"""Streams that decode in the other slots during the measurement."""
PROMPT_TOKENS = 96
MAX_CALL_SECONDS = 1.0
"""Seconds; the prefill takes about half of it, so calls are cancelled in prefill and in decode."""
CONTEXT = 2048


def measure(callers: int) -> None:
    """Print, for each transport, the milliseconds from the cancellation until the slot is free."""
    logs.configure("warning", "json", server="service")
    print(
        "| transport | calls | median ms | 95 % ms | slowest ms | within 100 ms |\n|---|---|---|---|---|---|"
    )
    asyncio.run(_measure(callers))


async def _measure(callers: int) -> None:
    settings: dict[str, Any] = {
        "backend": "llama_cpp",
        "context_length": CONTEXT,
        "max_concurrency": OTHER_STREAMS + 1,
    }
    async with running_transports(**settings) as transports:
        for name, call in (("gRPC", by_grpc), ("REST, streamed", by_sse), ("REST, plain", by_plain)):
            freed = sorted([await _cancel(transports, call) for _ in range(callers)])
            late = freed[int(0.95 * callers)]
            share = sum(seconds <= 0.1 for seconds in freed) / callers
            row = [f"{1e3 * seconds:.0f}" for seconds in (median(freed), late, freed[-1])]
            print(f"| {name} | {callers} | {' | '.join(row)} | {share:.0%} |", flush=True)


Call = Callable[[Transports, dict[str, Any]], Coroutine[Any, Any, None]]


async def by_grpc(transports: Transports, body: dict[str, Any]) -> None:
    """Stream over gRPC."""
    async with transports.client.stream_request(grpc_request(body)) as stream:
        async for _ in stream:
            pass


async def by_sse(transports: Transports, body: dict[str, Any]) -> None:
    """Stream over REST."""
    async with transports.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as reply:
        async for _ in reply.aiter_bytes():
            pass


async def by_plain(transports: Transports, body: dict[str, Any]) -> None:
    """Get the whole answer over REST."""
    await transports.http.post("/v1/completions", json=body)


async def _cancel(transports: Transports, call: Call) -> float:
    """Start a call, cancel it after a random time, and return the seconds until its slot is free."""
    async with _other_streams(transports):
        caller = asyncio.create_task(call(transports, _body(PROMPT_TOKENS)))
        await _until(transports, OTHER_STREAMS + 1)
        await asyncio.sleep(random.uniform(0, MAX_CALL_SECONDS))
        began = time.perf_counter()
        caller.cancel()
        await _until(transports, OTHER_STREAMS)
        return time.perf_counter() - began


@asynccontextmanager
async def _other_streams(transports: Transports) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(by_grpc(transports, _body(4))) for _ in range(OTHER_STREAMS)]
    await _until(transports, OTHER_STREAMS)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
        await _until(transports, 0)


async def _until(transports: Transports, running: int) -> None:
    while transports.service.loaded.backend.stats().running != running:  # noqa: ASYNC110  an engine has no events
        await asyncio.sleep(0.001)


def _body(prompt_tokens: int) -> dict[str, Any]:
    prompt = [random.randrange(300, 40_000) for _ in range(prompt_tokens)]
    return {"model": MODEL, "prompt": prompt, "max_tokens": 1500, "ignore_eos": True}
