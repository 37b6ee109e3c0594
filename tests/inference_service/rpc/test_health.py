"""The health service grpc.health.v1: checks, watchers, and the states of the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_service.backends.types import BackendStats
from inference_service.rpc.health import HealthMonitor, State
from inference_service.server import SERVICES
from tests.support.health import TIMEOUT_SECONDS, Watcher
from tests.support.service import running_service

Status = health_pb2.HealthCheckResponse

SERVING, NOT_SERVING = Status.SERVING, Status.NOT_SERVING


@asynccontextmanager
async def monitored(stats: list[BackendStats]) -> AsyncIterator[tuple[HealthMonitor, grpc.aio.Channel]]:
    """A monitor that is set to ready, on a socket, for an engine whose reading is `stats[-1]`."""
    monitor = HealthMonitor(["some.Service"], lambda: stats[-1], stall_seconds=1.0)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(monitor.servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monitor.enter(State.READY)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield monitor, channel
    finally:
        await server.stop(0)


async def check(channel: grpc.aio.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    response: Status = await stub.Check(
        health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_SECONDS
    )
    return response.status


async def test_every_service_can_be_checked() -> None:
    async with running_service() as service:
        for name in ("", *SERVICES):
            assert await check(service.channel, name) == SERVING


async def test_an_unknown_service_is_not_found() -> None:
    async with running_service() as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(service.channel, "nobody.Knows")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert await Watcher(service.channel, "nobody.Knows").next() == Status.SERVICE_UNKNOWN


async def test_a_watcher_gets_the_state_and_every_change() -> None:
    stats = [BackendStats(running=0)]
    async with monitored(stats) as (monitor, channel):
        watcher = Watcher(channel, "some.Service")
        assert await watcher.next() == SERVING

        stats.append(BackendStats(running=1, last_step_age=1.5))
        monitor.refresh()
        assert await watcher.next() == NOT_SERVING

        stats.append(BackendStats(running=1, last_step_age=0.1))
        monitor.refresh()
        assert await watcher.next() == SERVING


async def test_watchers_do_not_depend_on_each_other() -> None:
    """Watchers still get changes after another one has left, and new ones can join."""
    stats = [BackendStats(running=0)]
    async with monitored(stats) as (monitor, channel):
        leaving, staying = Watcher(channel), Watcher(channel)
        assert await leaving.next() == SERVING
        assert await staying.next() == SERVING

        await leaving.leave()
        await asyncio.sleep(0.1)
        coming = Watcher(channel)
        assert await coming.next() == SERVING
        stats.append(BackendStats(running=0, alive=False))
        monitor.refresh()

        assert await staying.next() == NOT_SERVING
        assert await coming.next() == NOT_SERVING


@pytest.mark.parametrize(
    ("stats", "state"),
    [
        (BackendStats(running=0), State.READY),
        (BackendStats(running=4, last_step_age=0.9), State.READY),
        (BackendStats(running=4, last_step_age=1.1), State.STALLED),
        (BackendStats(running=0, alive=False), State.DEAD),
        (BackendStats(running=4, last_step_age=9, alive=False), State.DEAD),
    ],
)
def test_health_depends_on_the_engine_s_progress(stats: BackendStats, state: State) -> None:
    monitor = HealthMonitor([], lambda: stats, stall_seconds=1.0)
    monitor.enter(State.READY)

    assert monitor.state is state
    assert monitor.died.is_set() == (state is State.DEAD)


def test_the_engine_is_not_read_before_the_service_is_ready() -> None:
    def no_engine() -> BackendStats:
        raise AssertionError("there is no engine yet")

    monitor = HealthMonitor([], no_engine, stall_seconds=1.0)
    monitor.refresh()

    assert monitor.state is State.STARTING


def test_draining_is_not_reported_as_a_stall() -> None:
    monitor = HealthMonitor([], lambda: BackendStats(running=1, last_step_age=9), stall_seconds=1.0)
    monitor.enter(State.DRAINING)

    assert monitor.state is State.DRAINING
