"""Whoever probes `/health` of guarded servers, without a key or with one.

Before, each keyless probe asked the service for its models in the name of the prober: a refusal with a
traceback in the log each time; a keyed one spent a request of the quota of its key.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support.keyed import keyed_doors
from tests.support.transports import Callers, running_transports

PROBES = 50
QUOTA = 5


def rpcs(lines: list[Any]) -> list[str]:
    """What the service and the bridge logged, from `info` up, about calls."""
    return [line["event"] for line in lines if line["log_level"] != "debug"]


@pytest.mark.parametrize("key", [True, False])
async def test_probes_are_silent_and_spend_nothing(key: bool, tmp_path: Path) -> None:
    async with keyed_doors(tmp_path, "alice", requests_per_minute=QUOTA) as keyed:
        alice = keyed.callers["alice"]
        headers = {"authorization": f"Bearer {alice.key}"} if key else {}
        with structlog.testing.capture_logs() as lines:
            for path in ("/health", "/health/live", "/health/ready"):
                replies = [await alice.http.get(path, headers=headers) for _ in range(PROBES)]
                assert {reply.status_code for reply in replies} == {200}
        assert rpcs(lines) == []
        # All of the quota is there still.
        for _ in range(QUOTA):
            await alice.client.list_models(api_key=alice.key)


async def test_a_prober_sees_the_state_and_no_engine(tmp_path: Path) -> None:
    """With keys the engine's name is in `/v1/models`, for those who have one."""
    async with keyed_doors(tmp_path, "alice") as keyed:
        told = (await keyed.transports.http.get("/health")).json()

    assert (told["status"], told["backend"]["healthy"]) == ("healthy", True)
    assert told["backend"]["info"]["name"] is None
    assert "simulated" not in str(told)


async def test_an_open_pair_tells_its_engine_and_asks_for_it_once() -> None:
    async with running_transports() as transports:
        with structlog.testing.capture_logs() as lines:
            told = [(await transports.http.get("/health")).json() for _ in range(PROBES)]

    assert {reply["backend"]["info"]["name"] for reply in told} == {"simulated"}
    assert rpcs(lines).count("rpc") == 1


async def test_many_probes_leave_others_alone(tmp_path: Path) -> None:
    """500 keyless probes, 20 at a time, while another caller asks."""
    async with keyed_doors(tmp_path, "alice") as keyed:
        alice = keyed.callers["alice"]
        left = iter(range(500))

        async def probe() -> None:
            for _ in left:
                assert (await alice.http.get("/health")).status_code == 200

        probing = [asyncio.create_task(probe()) for _ in range(20)]
        slowest = await _slowest_listing(alice)
        await asyncio.gather(*probing)

    assert slowest < 5


async def _slowest_listing(caller: Callers) -> float:
    slowest = 0.0
    for _ in range(5):
        begin = time.monotonic()
        await caller.client.list_models(api_key=caller.key)
        slowest = max(slowest, time.monotonic() - begin)
    return slowest
