"""A peer without a key floods the service with calls that it resets at once (CVE-2023-44487).

gRPC's core queues at most about a thousand calls of all peers, and drops further ones as CANCELLED, which may
be calls of other callers.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from inference_client import AsyncClient, InferenceError
from lodestream_common.keys import KeyFile
from tests.support.http2 import RapidReset
from tests.support.processes import server_process
from tests.support.service import MODEL_ID

pytestmark = pytest.mark.alone

SECONDS = 4.0
METHOD = "/lodestream.inference.v1.GenerateService/GenerateStream"
BODY = {"model": MODEL_ID, "prompt": "hello", "max_tokens": 2}


@pytest.mark.parametrize("callers", [8])
async def test_rapid_resets_do_not_cancel_calls_of_others(tmp_path: Path, callers: int) -> None:
    """A caller with a key is answered over gRPC and over REST while two peers attack."""
    _, token = KeyFile(tmp_path / "keys.json").create("alice")
    settings = {"backend": "simulated", "max_concurrency": 64, "requests_per_minute": 0}
    async with (
        server_process("serve", tmp_path, grpc_address="127.0.0.1:0", **settings) as service,
        server_process(
            "bridge", tmp_path, grpc_address=service.address, http_address="127.0.0.1:0"
        ) as bridge,
        AsyncClient(service.address, api_key=token) as client,
        httpx.AsyncClient(
            base_url=f"http://{bridge.address}", headers={"authorization": f"Bearer {token}"}, timeout=30
        ) as http,
    ):

        async def by_grpc() -> str:
            try:
                await client.generate(model=MODEL_ID, prompt="hello", max_tokens=2, timeout=30)
            except InferenceError as error:
                return error.code
            return "ok"

        async def by_rest() -> str:
            reply = await http.post("/v1/completions", json=BODY)
            return "ok" if reply.status_code == 200 else str(reply.status_code)

        assert (await by_grpc(), await by_rest()) == ("ok", "ok")
        attackers = [RapidReset(service.address, METHOD, SECONDS) for _ in range(2)]
        for attacker in attackers:
            attacker.start()
        over_grpc, over_rest = await asyncio.gather(_ask(by_grpc, callers), _ask(by_rest, callers))
        for attacker in attackers:
            await asyncio.to_thread(attacker.join, 10)

    print(f"{sum(a.sent for a in attackers)} resets; gRPC {dict(over_grpc)}, REST {dict(over_rest)}")
    assert all(attacker.sent > 1000 for attacker in attackers)
    assert (set(over_grpc), set(over_rest)) == ({"ok"}, {"ok"})


async def _ask(call: Callable[[], Awaitable[str]], callers: int) -> Counter[str]:
    """Run callers that make one call after the other for as long as the attack.

    Return how the calls ended.
    """
    ends: Counter[str] = Counter()
    until = time.monotonic() + SECONDS

    async def caller() -> None:
        while time.monotonic() < until:
            ends[await call()] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return ends
