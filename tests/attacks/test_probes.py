"""Frequent probes of `/health` on servers with keys, with and without a key.

Before, each probe listed the service's models with the key of its sender. A probe without a key caused an
error with a traceback in the log; a probe with a key spent a request of the key's quota.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support.keyed_servers import keyed_servers
from tests.support.transports import Callers, running_transports

PROBES = 50
QUOTA = 5


def call_events(lines: list[Any]) -> list[str]:
    """The events that both servers logged at `info` or above."""
    return [line["event"] for line in lines if line["log_level"] != "debug"]


@pytest.mark.parametrize("key", [True, False])
async def test_probes_are_not_logged_and_spend_no_quota(key: bool, tmp_path: Path) -> None:
    async with keyed_servers(tmp_path, "alice", requests_per_minute=QUOTA) as keyed:
        alice = keyed.callers["alice"]
        headers = {"authorization": f"Bearer {alice.key}"} if key else {}
        with structlog.testing.capture_logs() as lines:
            for path in ("/health", "/health/live", "/health/ready"):
                replies = [await alice.http.get(path, headers=headers) for _ in range(PROBES)]
                assert {reply.status_code for reply in replies} == {200}
        assert call_events(lines) == []
        # The whole quota is left.
        for _ in range(QUOTA):
            await alice.client.list_models(api_key=alice.key)


async def test_with_keys_health_does_not_name_the_engine(tmp_path: Path) -> None:
    """Callers with a key find the engine's name in `/v1/models`."""
    async with keyed_servers(tmp_path, "alice") as keyed:
        health = (await keyed.transports.http.get("/health")).json()

    assert (health["status"], health["backend"]["healthy"]) == ("healthy", True)
    assert health["backend"]["info"]["name"] is None
    assert "simulated" not in str(health)


async def test_without_keys_health_names_the_engine_and_requests_it_once() -> None:
    async with running_transports() as transports:
        with structlog.testing.capture_logs() as lines:
            replies = [(await transports.http.get("/health")).json() for _ in range(PROBES)]

    assert {reply["backend"]["info"]["name"] for reply in replies} == {"simulated"}
    assert call_events(lines).count("rpc") == 1


async def test_many_probes_do_not_delay_other_callers(tmp_path: Path) -> None:
    """500 probes without a key, 20 at a time, while another caller lists the models."""
    async with keyed_servers(tmp_path, "alice") as keyed:
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
