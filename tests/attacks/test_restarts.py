"""The service restarts repeatedly under load; REST callers wait for it and see no error."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import server_process
from tests.support.service import MODEL_ID

RESTARTS = 3
CALLERS = 8
PAUSE = 1.0
"""Seconds that the service runs between two restarts."""


@pytest.mark.parametrize("stream", [False, True])
async def test_restarts_cause_no_errors_over_rest(tmp_path: Path, stream: bool) -> None:
    """The retry timeout is longer than a start takes on a slow machine, so timing cannot fail the test."""
    settings = {
        "backend": "simulated",
        "max_concurrency": 64,
        "shutdown_grace": 5,
        "simulated_decode_tps": 200,
    }
    ends: Counter[str] = Counter()
    over = asyncio.Event()
    first = server_process("serve", tmp_path, grpc_address="127.0.0.1:0", **settings)
    service = await first.__aenter__()
    address = service.address
    async with (
        server_process(
            "bridge", tmp_path, grpc_address=address, http_address="127.0.0.1:0", retry_timeout=30
        ) as bridge,
        httpx.AsyncClient(base_url=f"http://{bridge.address}", timeout=60) as http,
    ):
        callers = [asyncio.create_task(_ask(http, ends, over, stream)) for _ in range(CALLERS)]
        gaps = []
        for _ in range(RESTARTS):
            await asyncio.sleep(PAUSE)
            stopped = time.monotonic()
            service.signal(signal.SIGTERM)
            await service.wait()
            context = server_process("serve", tmp_path, grpc_address=address, **settings)
            service = await context.__aenter__()
            gaps.append(time.monotonic() - stopped)
        await asyncio.sleep(PAUSE)
        over.set()
        await asyncio.wait_for(asyncio.gather(*callers), 60)
        service.signal(signal.SIGKILL)

    print(f"{RESTARTS} restarts of {max(gaps):.1f} s at most: {dict(ends)}")
    assert set(ends) == {"200"}


async def _ask(http: httpx.AsyncClient, ends: Counter[str], over: asyncio.Event, stream: bool) -> None:
    body: dict[str, Any] = {"model": MODEL_ID, "prompt": "hello world", "max_tokens": 8, "stream": stream}
    while not over.is_set():
        reply = await http.post("/v1/completions", json=body)
        whole = not stream or reply.status_code != 200 or reply.text.endswith("data: [DONE]\n\n")
        ends[str(reply.status_code) if whole else "cut"] += 1
