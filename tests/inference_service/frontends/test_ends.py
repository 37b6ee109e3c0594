"""The effect on callers when a frontend, the engine or the engine's process ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from inference_service.frontends.supervisor import Supervisor
from lodestream_common.errors import OperatorError, SettingError
from lodestream_common.receipts import SqliteStore
from tests.support.calls import ask, collect, eventually, first, refusal
from tests.support.frontends import (
    TIMEOUT_SECONDS,
    FrontendChannel,
    ServiceWithFrontends,
    frontend_channels,
    service_with_frontends,
)
from tests.support.health import Watcher
from tests.support.parts import free_port
from tests.support.processes import server_process
from tests.support.service import MODEL_ID, service_config

pytestmark = pytest.mark.slow
LONG = 150
"""Tokens of an answer that takes some seconds."""
STALLED = "@sim(stall_at=2) hello"
UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "NOT_READY")


async def healthy(frontends: Sequence[FrontendChannel], *, serving: bool) -> None:
    """Wait until all frontends say whether they serve."""
    for frontend in frontends:
        watcher = Watcher(frontend.channel)
        while await watcher.serving() is not serving:
            pass
        await watcher.leave()


async def started(frontend: FrontendChannel, prompt: str, **stopping: Any) -> Any:
    """A stream that has had its first text."""
    stream = frontend.generate_stub.GenerateStream(ask(prompt, **stopping))
    await first(stream, 2)
    return stream


async def test_a_killed_frontend_costs_its_own_calls_only_and_a_drained_service_none(tmp_path: Path) -> None:
    """Another frontend takes its place, and the engine aborts what it ran. Nothing of the counts is lost."""
    async with service_with_frontends(tmp_path, max_concurrency=4, simulated_decode_tps=30) as service:
        async with frontend_channels(service) as (one, other):
            for frontend in (one, other):
                await frontend.generate_stub.Generate(ask(max_tokens=3))
            lost, kept = [await started(frontend, STALLED) for frontend in (one, other)]
            await service.until("lodestream_requests_running", 2)
            one.frontend.kill()
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await collect(lost)
            await service.until("lodestream_requests_running", 1)
            await eventually(lambda: is_replaced(service, one), TIMEOUT_SECONDS)
            kept.cancel()
        async with frontend_channels(service) as frontends:
            running = [
                await started(frontend, "hello", ignore_eos=True, max_tokens=LONG) for frontend in frontends
            ]
            assert await service.total("lodestream_requests_total", outcome="ok") == 2
            service.server.signal(signal.SIGTERM)
            await healthy(frontends, serving=False)
            for frontend in frontends:
                assert (await refusal(frontend.generate_stub.Generate(ask()))).code is UNAVAILABLE[0]
            for stream in running:
                assert (await collect(stream))[-1].summary.usage.completion_tokens == LONG
        children = service.frontends()
        assert await service.server.wait(TIMEOUT_SECONDS) == 0
        assert not any(child.is_running() for child in children)

    store = SqliteStore(tmp_path / "receipts.db", can_create=False)
    store.open()
    sums, gaps = store.sums("model", 0, 1e12), store.gaps(0, 1e12)
    store.close()
    # A call of the killed frontend leaves no receipt, and nobody knows how many it had.
    assert [(gap.cause, gap.receipts) for gap in gaps] == [("crash", None)]
    assert sum(group.ok for group in sums) == 4
    assert sum(group.cancelled for group in sums) == 1


def is_replaced(service: ServiceWithFrontends, killed: FrontendChannel) -> bool:
    return len(now := service.frontends()) == 2 and killed.frontend not in now


async def test_every_frontend_sees_a_stalled_engine_and_a_killed_one(tmp_path: Path) -> None:
    async with (
        service_with_frontends(tmp_path, stall_timeout=1.0) as service,
        frontend_channels(service) as frontends,
    ):
        one, other = frontends
        stalled = await started(one, STALLED)
        await healthy(frontends, serving=False)
        refused = await refusal(other.generate_stub.Generate(ask()))
        assert (refused.code, refused.reason) == UNAVAILABLE
        stalled.cancel()
        await healthy(frontends, serving=True)

        streams = [await started(frontend, STALLED) for frontend in frontends]
        children = service.frontends()
        service.server.process.kill()
        for stream in streams:
            ended = await refusal(stream)
            assert (ended.code, ended.reason) == UNAVAILABLE
        await eventually(lambda: not any(child.is_running() for child in children), TIMEOUT_SECONDS)


async def test_an_engine_that_dies_ends_all_processes_with_status_1(tmp_path: Path) -> None:
    async with (
        service_with_frontends(tmp_path, simulated_decode_tps=30) as service,
        frontend_channels(service) as (one, other),
    ):
        stream = await started(other, "hello", ignore_eos=True, max_tokens=4000)
        dying = one.generate_stub.Generate(ask("@sim(die_at=2) hello"))
        for call in (dying, stream):
            ended = await refusal(call)
            assert (ended.code, ended.reason) == UNAVAILABLE
        children = service.frontends()
        assert await service.server.wait(TIMEOUT_SECONDS) == 1
        assert not any(child.is_running() for child in children)


async def test_why_a_frontend_cannot_serve_ends_the_service(tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = {"backend": "simulated", "model": MODEL_ID, "frontends": 2, "grpc_address": "0.0.0.0:0"}
    with log.open("wb") as stream:
        serving = server_process("serve", tmp_path, stream, **settings)
        with pytest.raises(AssertionError, match="ended with status 1"):
            await serving.__aenter__()
    assert "grpc_address: without a key the server is open" in log.read_text()


async def test_what_frontends_cannot_share_is_refused_before_they_start(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"frontends: 2 processes cannot share unix:/tmp/socket"):
        Supervisor(service_config(frontends=2, grpc_address="unix:/tmp/socket"), tmp_path)
    port = free_port()
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    async with listening:
        with pytest.raises(OperatorError, match="grpc_address"):
            Supervisor(service_config(frontends=2, grpc_address=f"127.0.0.1:{port}"), tmp_path)
