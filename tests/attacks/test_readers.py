"""Callers of the bridge that ask and never read.

40 of them, each with an answer of 10 MB: before, all stayed open, all their tokens were computed and logged
`ok`, and the bridge had grown by 141 MB (3.6 MB each, and growing) after ten seconds of streams, by 188 MB
(4.8 MB each) with whole replies of 3 MB. Now a stream holds 0.18 MB, a whole reply its own size, for as long
as the stall limit; then the connection is ended, the engine's slot is free, and the log says why.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog

from tests.rest_bridge.bodies import COMPLETIONS, completion
from tests.rest_bridge.running import running_bridge
from tests.rest_bridge.wire import head
from tests.support.processes import server_process
from tests.support.scripted import ScriptedService, delta, eventually, finished, serve, started, summary

READERS = 40
STALL = 2.0
PATIENCE = 30.0
MIB = 1024 * 1024


async def flood(request: Any, context: Any) -> AsyncIterator[Any]:
    """Ten megabytes."""
    yield started()
    for _ in range(5000):
        yield delta("x" * 2000)
    yield finished()
    yield summary()


async def large(request: Any, context: Any) -> AsyncIterator[Any]:
    """Three, of which the bridge makes a whole reply."""
    yield started()
    for _ in range(1500):
        yield delta("x" * 2000)
    yield finished()
    yield summary()


@pytest.fixture
def service() -> ScriptedService:
    service = ScriptedService()
    service.stream = flood
    return service


def ask(address: str, *, stream: bool, window: int = 4096) -> socket.socket:
    """A caller that has asked, and takes little of the answer before it reads."""
    host, _, port = address.rpartition(":")
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    caller.connect((host, int(port)))
    content = json.dumps(completion(stream=stream)).encode()
    caller.sendall(head("POST", COMPLETIONS, f"content-length: {len(content)}") + content)
    return caller


@pytest.mark.parametrize("stream", [True, False])
async def test_who_never_reads_is_ended(service: ScriptedService, stream: bool) -> None:
    """Streams and whole replies; nothing runs on, and every line of the log names the cause."""
    service.stream = flood if stream else large
    async with serve(service) as running, running_bridge(running.target, stall_timeout=STALL) as bridge:
        with structlog.testing.capture_logs() as logs:
            callers = [ask(bridge.address, stream=stream) for _ in range(READERS)]
            await eventually(lambda: len(service.seen) == READERS, PATIENCE)
            await eventually(lambda: not (bridge.requests or service.running), PATIENCE)
            assert not bridge.server.server_state.connections
        for caller in callers:
            caller.close()

    outcomes = [(line["status"], line["outcome"]) for line in logs if line["event"] == "request"]
    assert outcomes == [(504, "reader_stalled")] * READERS
    assert service.cancelled == (READERS if stream else 0)


async def test_streams_that_nobody_reads_take_little_memory(service: ScriptedService, tmp_path: Path) -> None:
    """Every buffer on the way is bounded, so the service stops making tokens."""
    async with (
        serve(service) as running,
        server_process("bridge", tmp_path, grpc_address=running.target, http_address="127.0.0.1:0") as bridge,
    ):
        process = psutil.Process(bridge.process.pid)
        before = process.memory_info().rss
        callers = [ask(bridge.address, stream=True) for _ in range(READERS)]
        await eventually(lambda: service.running == READERS, PATIENCE)
        await asyncio.sleep(5)
        grown = process.memory_info().rss - before
        for caller in callers:
            caller.close()

    assert grown < READERS * MIB, f"{grown / MIB:.1f} MiB"


async def test_a_slow_reader_is_no_stalled_one(service: ScriptedService) -> None:
    """Who takes a little now and then is served for as long as it takes, streams and whole replies alike."""
    async with serve(service) as running, running_bridge(running.target, stall_timeout=STALL) as bridge:
        callers = [ask(bridge.address, stream=stream, window=32768) for stream in (True, False)]
        loop = asyncio.get_running_loop()
        await eventually(lambda: bridge.requests == len(callers))
        for _ in range(25):
            for caller in callers:
                caller.setblocking(False)
                assert await asyncio.wait_for(loop.sock_recv(caller, 32768), PATIENCE)
            await asyncio.sleep(STALL / 5)
        assert bridge.requests == len(callers)
        for caller in callers:
            caller.close()
