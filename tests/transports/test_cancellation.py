"""Callers disconnect at random moments, over both transports."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.support.service import MODEL_ID
from tests.support.transports import Transports, grpc_request, running_transports

CALLERS = 100
PREFILL_TPS, DECODE_TPS = 100, 50
"""The prefill of 20 tokens takes 0.2 s and an answer seconds, so most callers wait in the queue."""
BODY = {"model": MODEL_ID, "prompt": "tell me " * 10, "max_tokens": 400, "ignore_eos": True}


async def leave_grpc(transports: Transports, after: float) -> None:
    """Stream over gRPC and leave the block."""
    async with transports.client.stream_request(grpc_request(BODY)) as stream:
        await _read_for(after, stream.__anext__)


async def leave_rest(transports: Transports, after: float, *, stream: bool) -> None:
    """Post over REST and close the connection."""
    host, _, port = transports.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({**BODY, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await _read_for(after, lambda: reader.read(4096))
    writer.close()


async def _read_for(seconds: float, read: Callable[[], Awaitable[object]]) -> None:
    end = time.monotonic() + seconds
    with suppress(asyncio.TimeoutError, TimeoutError):
        while (left := end - time.monotonic()) > 0:
            await asyncio.wait_for(read(), left)


async def leave_rest_stream(transports: Transports, after: float) -> None:
    await leave_rest(transports, after, stream=True)


async def leave_rest_plain(transports: Transports, after: float) -> None:
    await leave_rest(transports, after, stream=False)


@pytest.fixture(params=["simulated", "tensorrt_llm"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "tensorrt_llm":
        engine: dict[str, Any] = request.getfixturevalue("serve_engine")(
            prefill_tps=PREFILL_TPS, tps=DECODE_TPS
        )
        return engine
    return {"simulated_prefill_tps": PREFILL_TPS, "simulated_decode_tps": DECODE_TPS, "max_concurrency": 16}


@pytest.mark.parametrize("leave", [leave_grpc, leave_rest_stream, leave_rest_plain])
async def test_every_slot_is_free_after_callers_disconnect(
    leave: Callable[[Transports, float], Awaitable[None]], settings: dict[str, Any]
) -> None:
    """A hundred callers disconnect while queued, in prefill or mid-stream.

    No slot, task or thread is left.
    """
    async with running_transports(**settings) as transports:
        await transports.by_rest({**BODY, "max_tokens": 1})
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        moments = [random.uniform(0.0, 1.5) for _ in range(CALLERS)]
        await asyncio.gather(*(leave(transports, moment) for moment in moments))
        freed = await _seconds_until_idle(transports)
        print(f"{leave.__name__}: all slots free {freed * 1e3:.0f} ms after the last caller left")
        await asyncio.sleep(0.2)

        assert len(asyncio.all_tasks()) <= tasks
        assert threading.active_count() <= threads
        assert (await transports.by_rest({**BODY, "max_tokens": 2})).finish_reason == "length"


async def _seconds_until_idle(transports: Transports) -> float:
    loaded = transports.service.loaded
    began = time.monotonic()
    while loaded.backend.stats().running or loaded.admission.running or len(transports.service.server.calls):
        assert time.monotonic() - began < 5, "a slot stayed taken"
        await asyncio.sleep(0.002)
    return time.monotonic() - began
