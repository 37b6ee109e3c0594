"""The service is killed while the bridge runs."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import server_process
from tests.support.service import MODEL_ID

STREAMS = 20
BODY = {"model": MODEL_ID, "prompt": "@sim(stall_at=3) hello", "stream": True}


async def test_streams_end_with_an_error_and_the_bridge_recovers(tmp_path: Path) -> None:
    """After kill -9 every stream ends with the error event; after a restart requests are answered."""
    settings = {"backend": "simulated", "max_concurrency": 64}
    async with server_process("serve", tmp_path, grpc_address="127.0.0.1:0", **settings) as service:
        address = service.address
        async with (
            server_process("bridge", tmp_path, grpc_address=address, http_address="127.0.0.1:0") as bridge,
            httpx.AsyncClient(base_url=f"http://{bridge.address}", timeout=30) as http,
        ):
            running = asyncio.Semaphore(0)
            reads = [asyncio.create_task(_read(http, running)) for _ in range(STREAMS)]
            for _ in range(STREAMS):
                await running.acquire()
            service.signal(signal.SIGKILL)
            killed = time.monotonic()
            ends = await asyncio.wait_for(asyncio.gather(*reads), 30)
            delays = sorted(at - killed for at, _ in ends)
            print(f"error events after kill -9: median {delays[STREAMS // 2]:.3f} s, last {delays[-1]:.3f} s")

            for _, event in ends:
                assert event["error"]["code"] == "not_ready"
            refused = await http.post("/v1/completions", json={"model": MODEL_ID, "prompt": "hi"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
            assert (await http.get("/health/ready")).status_code == 503

            async with server_process("serve", tmp_path, grpc_address=address, **settings):
                answer = await _answer(http)
            assert answer["choices"][0]["finish_reason"] == "stop"


async def _read(http: httpx.AsyncClient, running: asyncio.Semaphore) -> tuple[float, dict[str, Any]]:
    """Read one stream to its end. Return the time of the end, and the last event."""
    last = ""
    async with http.stream("POST", "/v1/completions", json=BODY) as reply:
        async for line in reply.aiter_lines():
            if not last:
                running.release()
            last = line or last
    event: dict[str, Any] = json.loads(last.removeprefix("data: "))
    return time.monotonic(), event


async def _answer(http: httpx.AsyncClient) -> dict[str, Any]:
    """Retry a request until it is answered, for at most 15 seconds."""
    for _ in range(150):
        reply = await http.post("/v1/completions", json={"model": MODEL_ID, "prompt": "hi"})
        if reply.status_code == 200:
            body: dict[str, Any] = reply.json()
            return body
        await asyncio.sleep(0.1)
    raise AssertionError("the bridge did not recover")
