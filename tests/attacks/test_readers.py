"""Callers of the bridge that send a request and never read the reply.

Before, the connections of 40 such callers stayed open, all their tokens were computed, and the log said `ok`.
Ten seconds of streams of 10 MB each made the bridge grow by 141 MB (3.6 MB each, and growing), whole replies
of 3 MB by 188 MB (4.8 MB each). Now a stream holds 0.18 MB and a whole reply its own size until the stall
timeout. Then the connection is closed, the engine's slot is free, and the log names the cause.
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
TIMEOUT_SECONDS = 30.0
MIB = 1024 * 1024


async def flood(request: Any, context: Any) -> AsyncIterator[Any]:
    """Stream ten megabytes."""
    yield started()
    for _ in range(5000):
        yield delta("x" * 2000)
    yield finished()
    yield summary()


async def large(request: Any, context: Any) -> AsyncIterator[Any]:
    """Stream three megabytes, from which the bridge makes a whole reply."""
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
    """Connect, send a request, and return the socket. Its small receive buffer takes little of the answer."""
    host, _, port = address.rpartition(":")
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    caller.connect((host, int(port)))
    content = json.dumps(completion(stream=stream)).encode()
    caller.sendall(head("POST", COMPLETIONS, f"content-length: {len(content)}") + content)
    return caller


@pytest.mark.parametrize("stream", [True, False])
async def test_callers_that_never_read_are_disconnected(service: ScriptedService, stream: bool) -> None:
    """No request of theirs runs on, and every log line names the cause."""
    service.stream = flood if stream else large
    async with serve(service) as running, running_bridge(running.target, stall_timeout=STALL) as bridge:
        with structlog.testing.capture_logs() as logs:
            callers = [ask(bridge.address, stream=stream) for _ in range(READERS)]
            await eventually(lambda: len(service.seen) == READERS, TIMEOUT_SECONDS)
            await eventually(lambda: not (bridge.requests or service.running), TIMEOUT_SECONDS)
            assert not bridge.server.server_state.connections
        for caller in callers:
            caller.close()

    outcomes = [(line["status"], line["outcome"]) for line in logs if line["event"] == "request"]
    assert outcomes == [(504, "reader_stalled")] * READERS
    assert service.cancelled == (READERS if stream else 0)


async def test_unread_streams_take_little_memory(service: ScriptedService, tmp_path: Path) -> None:
    """All buffers on the way are bounded, so the service stops generating."""
    async with (
        serve(service) as running,
        server_process("bridge", tmp_path, grpc_address=running.target, http_address="127.0.0.1:0") as bridge,
    ):
        process = psutil.Process(bridge.process.pid)
        before = process.memory_info().rss
        callers = [ask(bridge.address, stream=True) for _ in range(READERS)]
        await eventually(lambda: service.running == READERS, TIMEOUT_SECONDS)
        await asyncio.sleep(5)
        grown = process.memory_info().rss - before
        for caller in callers:
            caller.close()

    assert grown < READERS * MIB, f"{grown / MIB:.1f} MiB"


async def test_a_slow_reader_is_not_disconnected(service: ScriptedService) -> None:
    """A caller that reads a little several times within each stall timeout is served to the end."""
    async with serve(service) as running, running_bridge(running.target, stall_timeout=3 * STALL) as bridge:
        callers = [ask(bridge.address, stream=stream, window=32768) for stream in (True, False)]
        loop = asyncio.get_running_loop()
        await eventually(lambda: bridge.requests == len(callers))
        for _ in range(25):
            for caller in callers:
                caller.setblocking(False)
                assert await asyncio.wait_for(loop.sock_recv(caller, 32768), TIMEOUT_SECONDS)
            await asyncio.sleep(STALL / 5)
        assert bridge.requests == len(callers)
        for caller in callers:
            caller.close()
