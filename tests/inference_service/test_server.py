"""The life of the service: start, failures, stalls, draining, end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from lodestream.inference.v1 import generate_service_pb2_grpc as generate_grpc
from structlog.testing import capture_logs

from inference_service.backends.simulated.backend import SimulatedBackend
from inference_service.backends.types import BackendDescription
from inference_service.rpc.health import State
from inference_service.server import Server
from lodestream_common.errors import OperatorError
from lodestream_common.ready import READY_FILE, read_ready
from tests.support.calls import (
    TIMEOUT_SECONDS,
    ask,
    collect,
    endless,
    eventually,
    first,
    is_free,
    read_stream,
    refusal,
)
from tests.support.health import Watcher
from tests.support.service import SMALL_WINDOW, Running, connect, running_service, service_config
from tests.support.statuses import status_of_call


async def test_while_the_model_loads_the_service_listens_and_reports_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = asyncio.Event()
    start = SimulatedBackend.start

    async def start_slowly(backend: SimulatedBackend) -> BackendDescription:
        await loaded.wait()
        return await start(backend)

    monkeypatch.setattr(SimulatedBackend, "start", start_slowly)
    server = Server(service_config())
    starting = asyncio.create_task(server.start())
    await eventually(lambda: server.address)
    async with connect(str(server.address)) as channel:
        stub = generate_grpc.GenerateServiceStub(channel)
        watcher = Watcher(channel)

        for status in (await refusal(stub.Generate(ask())), await refusal(stub.GenerateStream(ask()))):
            assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
            assert "starting" in status.message
            assert status.retry_seconds == 1.0
        assert not await watcher.serving()

        loaded.set()
        await starting
        assert await watcher.serving()
        assert (await stub.Generate(ask(), timeout=TIMEOUT_SECONDS)).choices
    await server.stop()


async def test_an_engine_that_cannot_be_loaded_is_an_operator_error() -> None:
    server = Server(service_config(simulated_fault="crash_at_start"))

    with pytest.raises(OperatorError, match="crash at start"):
        await server.start()
    await server.stop()


async def test_an_unknown_fault_is_named() -> None:
    server = Server(service_config(simulated_fault="explode=3"))

    with pytest.raises(OperatorError, match=r"simulated_fault.*explode"):
        await server.start()
    await server.stop()


async def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = Server(service_config(grpc_address=address))

        with pytest.raises(OperatorError, match=f"grpc_address.*{address}"):
            await server.start()
        await server.stop()


async def test_two_servers_never_share_a_port() -> None:
    async with running_service() as first:
        server = Server(service_config(grpc_address=first.address))

        with pytest.raises(OperatorError, match="grpc_address"):
            await server.start()
        await server.stop()


async def test_a_context_longer_than_the_model_s_is_refused() -> None:
    server = Server(service_config(context_length=100_000))

    with pytest.raises(OperatorError, match=r"context_length.*8192"):
        await server.start()
    await server.stop()


async def test_a_service_can_be_stopped_before_its_start_and_twice() -> None:
    never_started = Server(service_config())
    await never_started.stop()
    async with running_service() as service:
        await service.server.stop()


async def test_a_dead_engine_fails_running_and_new_calls_and_health() -> None:
    async with running_service() as service:
        watcher = Watcher(service.channel)
        assert await watcher.serving()
        bystander = service.generate_stub.GenerateStream(ask("@sim(stall_at=3)"))
        await first(bystander)

        status = await refusal(service.generate_stub.GenerateStream(endless("@sim(die_at=5)")))

        assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
        assert status.retry_seconds > 0
        assert not await watcher.serving()
        assert service.server.health.died.is_set()
        status = await refusal(service.generate_stub.Generate(ask()))
        assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
        bystander.cancel()


async def test_an_engine_without_progress_is_unhealthy_until_it_progresses() -> None:
    async with running_service(stall_timeout=0.5) as service:
        watcher = Watcher(service.channel)
        assert await watcher.serving()
        stalled = service.generate_stub.GenerateStream(ask("@sim(stall_at=1)"))

        assert not await watcher.serving()
        assert service.server.health.state is State.STALLED

        stalled.cancel()
        assert await watcher.serving()


@asynccontextmanager
async def draining(service: Running, hurry: asyncio.Event) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(service.server.drain(hurry))
    await asyncio.sleep(0.05)
    try:
        yield task
    finally:
        task.cancel()


async def test_draining_lets_running_calls_finish_and_refuses_new_ones() -> None:
    async with running_service(simulated_decode_tps=40, shutdown_grace=30, max_concurrency=1) as service:
        watcher = Watcher(service.channel)
        assert await watcher.serving()
        running = asyncio.create_task(read_stream(service.generate_stub.GenerateStream(ask())))
        waiting = asyncio.create_task(read_stream(service.generate_stub.GenerateStream(ask())))
        await eventually(lambda: service.loaded.admission.waiting)

        async with draining(service, asyncio.Event()) as drain:
            assert not await watcher.serving()
            for call in (service.generate_stub.Generate(ask()), service.generate_stub.GenerateStream(ask())):
                status = await refusal(call)
                assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
            assert not drain.done()
            assert (await running).text.endswith("hello world")
            assert (await waiting).text.endswith("hello world")
            await asyncio.wait_for(drain, TIMEOUT_SECONDS)


async def test_calls_still_running_after_the_grace_period_get_an_error() -> None:
    async with running_service(shutdown_grace=0.3) as service:
        stream = service.generate_stub.GenerateStream(ask("@sim(stall_at=3)"))
        answer = service.generate_stub.Generate(ask("@sim(stall_at=3)"), timeout=TIMEOUT_SECONDS)
        seen = await first(stream, 4)

        async with draining(service, asyncio.Event()) as drain:
            for call in (stream, answer):
                status = await refusal(call)
                assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
                assert "shutting down" in status.message
            await asyncio.wait_for(drain, TIMEOUT_SECONDS)

        assert [event.WhichOneof("event") for event in seen] == ["started", "delta", "delta", "delta"]
        assert is_free(service)


async def test_a_second_signal_ends_the_grace_period() -> None:
    async with running_service(shutdown_grace=600) as service:
        running = service.generate_stub.GenerateStream(ask("@sim(stall_at=3)"))
        await first(running)
        hurry = asyncio.Event()

        async with draining(service, hurry) as drain:
            assert not drain.done()
            hurry.set()
            status = await refusal(running)
            await asyncio.wait_for(drain, TIMEOUT_SECONDS)

        assert status.code is grpc.StatusCode.UNAVAILABLE


async def test_an_idle_service_drains_at_once() -> None:
    async with running_service(shutdown_grace=600) as service:
        await asyncio.wait_for(service.server.drain(asyncio.Event()), TIMEOUT_SECONDS)


async def test_the_stream_of_a_stalled_reader_is_ended_and_its_slot_freed() -> None:
    async with (
        running_service(stall_timeout=0.5) as service,
        connect(service.address, *SMALL_WINDOW) as channel,
    ):
        stream = generate_grpc.GenerateServiceStub(channel).GenerateStream(endless("漢字 and more " * 400))
        await eventually(lambda: any(call.writing_since for call in service.server.calls))

        await eventually(lambda: is_free(service))

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(collect(stream), TIMEOUT_SECONDS)
        status = status_of_call(caught.value)
        assert (status.code, status.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_STALLED")
        assert service.server.health.state is State.READY


async def test_a_disconnect_with_unread_messages_is_a_cancellation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with capture_logs() as logs:
        async with running_service() as service, connect(service.address, *SMALL_WINDOW) as channel:
            stream = generate_grpc.GenerateServiceStub(channel).GenerateStream(
                endless("漢字 and more " * 400)
            )
            await eventually(lambda: any(call.writing_since for call in service.server.calls))
            await asyncio.sleep(0.2)
            stream.cancel()
            await eventually(lambda: is_free(service))

    assert [line["outcome"] for line in logs if line["event"] == "rpc"] == ["cancelled"]
    assert [line for line in logs if line["log_level"] == "error"] == []
    assert caplog.records == []


async def test_the_stream_of_a_slow_caller_continues() -> None:
    async with (
        running_service(stall_timeout=1.0) as service,
        connect(service.address, *SMALL_WINDOW) as channel,
    ):
        stream = generate_grpc.GenerateServiceStub(channel).GenerateStream(
            ask("漢字 and more " * 20, ignore_eos=True, max_tokens=600)
        )
        seen: list[Any] = []
        async for event in stream:
            seen.append(event)
            if len(seen) % 100 == 0:
                await asyncio.sleep(0.3)

        assert seen[-1].WhichOneof("event") == "summary"


class Process:
    """The service in its own process."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.address = address
        self._process = process

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exit_status(self) -> int:
        return await asyncio.wait_for(self._process.wait(), TIMEOUT_SECONDS)


PROGRAM = """
import json, sys
from inference_service.config import ServiceConfig
from inference_service.server import run
sys.exit(run(ServiceConfig(**json.loads(sys.argv[1]))))
"""


@asynccontextmanager
async def process(tmp_path: Path, **overrides: Any) -> AsyncIterator[Process]:
    """Start the service and wait until it is ready."""
    ready = tmp_path / "ready.json"
    settings = service_config(**overrides).model_dump_json()
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, settings), env={**os.environ, READY_FILE: str(ready)}
    )
    try:
        await eventually(lambda: started.returncode is not None or ready.exists(), 30)
        address = read_ready(ready)
        assert address is not None
        yield Process(started, address)
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    async with process(tmp_path, simulated_decode_tps=40) as server, connect(server.address) as channel:
        stub = generate_grpc.GenerateServiceStub(channel)
        stream = stub.GenerateStream(ask())
        await first(stream)

        server.send(number)

        assert (await collect(stream))[-1].WhichOneof("event") == "summary"
        assert await server.exit_status() == 0


async def test_a_second_signal_ends_running_calls(tmp_path: Path) -> None:
    async with process(tmp_path, shutdown_grace=600) as server, connect(server.address) as channel:
        stream = generate_grpc.GenerateServiceStub(channel).GenerateStream(ask("@sim(stall_at=1)"))
        await first(stream)
        watcher = Watcher(channel)
        assert await watcher.serving()

        server.send(signal.SIGTERM)
        assert not await watcher.serving()
        server.send(signal.SIGTERM)

        assert (await refusal(stream)).reason == "NOT_READY"
        assert await server.exit_status() == 0


async def test_the_process_ends_with_status_1_when_the_engine_died(tmp_path: Path) -> None:
    async with process(tmp_path) as server, connect(server.address) as channel:
        status = await refusal(generate_grpc.GenerateServiceStub(channel).Generate(ask("@sim(die_at=0)")))

        assert status.code is grpc.StatusCode.UNAVAILABLE
        assert await server.exit_status() == 1


LOADING_FOREVER = """
import asyncio, sys
from inference_service.backends.simulated import SimulatedBackend
async def start(_):
    print("loading", flush=True)
    await asyncio.Event().wait()
SimulatedBackend.start = start
"""


async def test_a_signal_during_loading_ends_the_process() -> None:
    settings = service_config().model_dump_json()
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOADING_FOREVER + PROGRAM, settings), stdout=asyncio.subprocess.PIPE
    )
    assert started.stdout is not None
    async for line in started.stdout:
        if line == b"loading\n":
            started.send_signal(signal.SIGTERM)
            break

    assert await asyncio.wait_for(started.wait(), TIMEOUT_SECONDS) == 0
