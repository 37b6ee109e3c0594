"""Connections to the bridge that stay open without sending a request.

Before there were limits, 180 of 180 connections with slow heads stayed open without end, and 1,100 silent
ones exhausted the file descriptors of the bridge, which then answered nobody. Now all of them are closed
after the header timeout, and a connection above the limit is refused while others are served.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import structlog

from tests.rest_bridge.bodies import CHAT, chat
from tests.rest_bridge.running import RunningBridge, running_bridge
from tests.rest_bridge.wire import Wire, connect, head
from tests.support.scripted import ScriptedService, eventually, serve, whole_answer

READ_TIMEOUT = 1.0
"""The header timeout and the body timeout of the bridge in these tests."""
TIMEOUT_SECONDS = 15.0
"""Seconds after which a test fails: far above the read timeout, also on a busy machine."""
ATTACKERS = 180


@pytest.fixture
async def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
async def bridge(service: ScriptedService) -> AsyncIterator[RunningBridge]:
    async with (
        serve(service) as running,
        running_bridge(
            running.target,
            header_timeout=READ_TIMEOUT,
            body_timeout=READ_TIMEOUT,
            max_connections=ATTACKERS + 20,
        ) as bridge,
    ):
        yield bridge


async def _drip(wire: Wire, piece: bytes, start: bytes) -> bytes:
    """Send `start`, then `piece` several times a second until the bridge closes the connection.

    Return its reply.
    """
    wire.send(start)
    began, received = time.monotonic(), b""
    while time.monotonic() - began < TIMEOUT_SECONDS:
        try:
            received += (read := await asyncio.wait_for(wire.reader.read(65536), 0.2))
        except TimeoutError:
            wire.send(piece)
            continue
        except ConnectionError:
            return received
        if not read:
            return received
    raise AssertionError("the connection stayed open")


HEAD = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n"
BODY = head("POST", CHAT, "content-length: 100000")


@pytest.mark.parametrize(
    ("start", "piece", "status"),
    [
        pytest.param(b"", b"", b"", id="silent"),
        pytest.param(HEAD, b"", b"408", id="half a head"),
        pytest.param(HEAD, b"x: y\r\n", b"408", id="a head without end"),
        pytest.param(b"", b"\r\n", b"408", id="empty lines"),
        pytest.param(BODY, b"", b"408", id="no body"),
        pytest.param(BODY, b"y", b"408", id="a slow body"),
        pytest.param(
            head("POST", CHAT, "transfer-encoding: chunked"), b"1\r\ny\r\n", b"408", id="slow chunks"
        ),
    ],
)
async def test_incomplete_requests_time_out(
    bridge: RunningBridge, service: ScriptedService, start: bytes, piece: bytes, status: bytes
) -> None:
    """None of 180 such connections stays open, and another caller is served meanwhile."""
    async with AsyncExitStack() as stack, httpx.AsyncClient(base_url=bridge.url) as bystander:
        wires = [await stack.enter_async_context(connect(bridge.address)) for _ in range(ATTACKERS)]
        attack = asyncio.gather(*(_drip(wire, piece, start) for wire in wires))
        assert (await bystander.post(CHAT, json=chat(), timeout=TIMEOUT_SECONDS)).status_code == 200
        replies = await attack
    await eventually(lambda: not bridge.requests)

    assert {reply[9:12] for reply in replies} == {status}
    assert len(service.seen) == 1


async def test_the_body_of_a_refused_request_is_read_for_a_limited_time(bridge: RunningBridge) -> None:
    async with connect(bridge.address) as wire:
        wire.send(head("POST", "/nope", "content-length: 1000000000"))
        assert (await wire.read_reply())[0] == 404
        await _drip(wire, b"y" * 4096, b"")


async def test_idle_time_between_requests_does_not_count_as_header_time(bridge: RunningBridge) -> None:
    """A kept-alive connection waits for the next request, whose head then has the whole timeout."""
    async with connect(bridge.address) as wire:
        for _ in range(2):
            wire.send(head("GET", "/health/live"))
            assert (await wire.read_reply())[0] == 200
            await asyncio.sleep(2 * READ_TIMEOUT)
        assert (await _drip(wire, b"x: y\r\n", HEAD))[9:12] == b"408"


async def test_the_header_timeout_does_not_run_during_a_slow_answer(
    bridge: RunningBridge, service: ScriptedService
) -> None:
    """The timeout of a pipelined request starts after the request before it."""
    service.answer = _slow
    async with connect(bridge.address) as wire:
        wire.post(CHAT, chat())
        wire.send(HEAD)
        assert (await wire.read_reply())[0] == 200
        wire.send(b"\r\n")
        assert (await wire.read_reply())[0] == 200


async def _slow(request: Any, context: Any) -> Any:
    await asyncio.sleep(3 * READ_TIMEOUT)
    return whole_answer()


async def test_a_body_timeout_is_logged_with_status_and_outcome(bridge: RunningBridge) -> None:
    with structlog.testing.capture_logs() as logs:
        async with connect(bridge.address) as wire:
            await _drip(wire, b"", BODY)
        await eventually(lambda: not bridge.requests)

    assert [(line["status"], line["outcome"]) for line in logs if line["event"] == "request"] == [
        (408, "request_timeout")
    ]


async def test_the_connection_limit_is_logged_once_and_idle_connections_are_closed() -> None:
    """Connections above the limit are refused, and the log has one line.

    Idle connections are closed for others.
    """
    most = 20
    async with (
        serve(ScriptedService()) as running,
        running_bridge(running.target, max_connections=most) as bridge,
    ):
        with structlog.testing.capture_logs() as logs:
            async with AsyncExitStack() as stack:
                wires = [await stack.enter_async_context(connect(bridge.address)) for _ in range(most)]
                await eventually(lambda: len(bridge.server.server_state.connections) == most)
                refused = [await _refused(bridge) for _ in range(10)]
                await eventually(lambda: len(bridge.server.server_state.connections) < most, TIMEOUT_SECONDS)
                async with httpx.AsyncClient(base_url=bridge.url) as bystander:
                    assert (await bystander.post(CHAT, json=chat())).status_code == 200
                assert len(wires) == most
            await eventually(lambda: any("again" in line["event"] for line in logs), TIMEOUT_SECONDS)

    assert set(refused) == {(503, "not_ready")}
    lines = [(line["log_level"], line["event"]) for line in logs if "connections" in line["event"]]
    assert lines == [
        ("warning", "too_many_connections"),
        ("info", "connections_accepted_again"),
    ]


async def _refused(bridge: RunningBridge) -> tuple[int, str]:
    async with connect(bridge.address) as wire:
        status, headers, body = await wire.read_reply()
        assert headers["retry-after"]
        assert await wire.has_ended()
        return status, body["error"]["code"]


async def test_a_connection_with_a_running_request_is_never_closed_for_others(
    service: ScriptedService,
) -> None:
    """Only connections without a request are closed for new ones."""
    service.answer = _slow
    async with (
        serve(service) as running,
        running_bridge(running.target, max_connections=2) as bridge,
        connect(bridge.address) as busy,
        connect(bridge.address) as silent,
    ):
        busy.post(CHAT, chat())
        await eventually(lambda: service.running == 1)
        await _refused(bridge)
        assert await silent.has_ended()
        assert (await busy.read_reply())[0] == 200


@pytest.mark.parametrize(("files", "connections"), [(300, 44), (3000, 2000)])
def test_the_connection_limit_stays_below_the_limit_of_open_files(files: int, connections: int) -> None:
    """A low hard limit lowers the number of connections; a low soft limit is raised."""
    program = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (200, {files}))\n"
        "from rest_bridge.server import affordable\n"
        "print(affordable(2000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    affordable, soft = done.stdout.split()[-2:]

    assert (int(affordable), int(soft)) == (connections, min(files, 2256))
