"""Connections to the bridge that hold on to it without asking for anything.

Before there were limits, 180 of 180 connections with slow heads stayed open for as long as anybody looked,
and 1,100 silent ones exhausted the descriptors of the bridge, which then said nothing. Now all of them are
ended after the time of a head, and the one connection too many is refused while others are served.
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

TIMEOUT = 1.0
"""Of heads and of bodies, here."""
PATIENCE = 15.0
"""Far above that on a busy machine, far below for ever."""
ATTACKERS = 180


@pytest.fixture
async def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
async def bridge(service: ScriptedService) -> AsyncIterator[RunningBridge]:
    async with (
        serve(service) as running,
        running_bridge(
            running.target, header_timeout=TIMEOUT, body_timeout=TIMEOUT, max_connections=ATTACKERS + 20
        ) as bridge,
    ):
        yield bridge


async def _drip(wire: Wire, piece: bytes, start: bytes) -> bytes:
    """Send a start, then a piece every so often until the other side ends it; what it said."""
    wire.send(start)
    began, said = time.monotonic(), b""
    while time.monotonic() - began < PATIENCE:
        try:
            said += (read := await asyncio.wait_for(wire.reader.read(65536), 0.2))
        except TimeoutError:
            wire.send(piece)
            continue
        except ConnectionError:
            return said
        if not read:
            return said
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
async def test_a_request_that_does_not_arrive_is_ended(
    bridge: RunningBridge, service: ScriptedService, start: bytes, piece: bytes, status: bytes
) -> None:
    """Of 180 such connections none stays, and meanwhile others are served."""
    async with AsyncExitStack() as stack, httpx.AsyncClient(base_url=bridge.url) as bystander:
        wires = [await stack.enter_async_context(connect(bridge.address)) for _ in range(ATTACKERS)]
        attack = asyncio.gather(*(_drip(wire, piece, start) for wire in wires))
        assert (await bystander.post(CHAT, json=chat(), timeout=PATIENCE)).status_code == 200
        said = await attack
    await eventually(lambda: not bridge.requests)

    assert {reply[9:12] for reply in said} == {status}
    assert len(service.seen) == 1


async def test_what_follows_a_refusal_has_its_limit_too(bridge: RunningBridge) -> None:
    """A body that nobody wants any more is read for a while, and not for ever."""
    async with connect(bridge.address) as wire:
        wire.send(head("POST", "/nope", "content-length: 1000000000"))
        assert (await wire.read_reply())[0] == 404
        await _drip(wire, b"y" * 4096, b"")


async def test_time_between_requests_is_not_that_of_a_head(bridge: RunningBridge) -> None:
    """A connection that was used stays for the next request; then each head has its time again."""
    async with connect(bridge.address) as wire:
        for _ in range(2):
            wire.send(head("GET", "/health/live"))
            assert (await wire.read_reply())[0] == 200
            await asyncio.sleep(2 * TIMEOUT)
        assert (await _drip(wire, b"x: y\r\n", HEAD))[9:12] == b"408"


async def test_a_slow_answer_is_no_slow_request(bridge: RunningBridge, service: ScriptedService) -> None:
    """Heads that wait behind a running request have their time only after it."""
    service.answer = _slow
    async with connect(bridge.address) as wire:
        wire.post(CHAT, chat())
        wire.send(HEAD)
        assert (await wire.read_reply())[0] == 200
        wire.send(b"\r\n")
        assert (await wire.read_reply())[0] == 200


async def _slow(request: Any, context: Any) -> Any:
    await asyncio.sleep(3 * TIMEOUT)
    return whole_answer()


async def test_the_log_names_a_body_that_did_not_arrive(bridge: RunningBridge) -> None:
    """With the status that its caller got."""
    with structlog.testing.capture_logs() as logs:
        async with connect(bridge.address) as wire:
            await _drip(wire, b"", BODY)
        await eventually(lambda: not bridge.requests)

    assert [(line["status"], line["outcome"]) for line in logs if line["event"] == "request"] == [
        (408, "request_timeout")
    ]


async def test_the_cap_bites_once_and_lets_go() -> None:
    """One connection more is refused, with one line in the log; idle ones make place for others."""
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
                await eventually(lambda: len(bridge.server.server_state.connections) < most, PATIENCE)
                async with httpx.AsyncClient(base_url=bridge.url) as bystander:
                    assert (await bystander.post(CHAT, json=chat())).status_code == 200
                assert len(wires) == most
            await eventually(lambda: any("again" in line["event"] for line in logs), PATIENCE)

    assert set(refused) == {(503, "not_ready")}
    lines = [(line["log_level"], line["event"]) for line in logs if "connections" in line["event"]]
    assert lines == [
        ("warning", "too many connections: new ones are refused"),
        ("info", "connections are accepted again"),
    ]


async def _refused(bridge: RunningBridge) -> tuple[int, str]:
    async with connect(bridge.address) as wire:
        status, headers, body = await wire.read_reply()
        assert headers["retry-after"]
        assert await wire.has_ended()
        return status, body["error"]["code"]


async def test_a_running_request_is_never_the_one_that_makes_place(service: ScriptedService) -> None:
    """However long it takes; only connections without a request are closed for others."""
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
def test_there_are_never_more_connections_than_files(files: int, connections: int) -> None:
    """A low limit of the system lowers ours, a soft one is raised, so that accepting always works."""
    program = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (200, {files}))\n"
        "from rest_bridge.server import affordable\n"
        "print(affordable(2000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    affordable, soft = done.stdout.split()[-2:]

    assert (int(affordable), int(soft)) == (connections, min(files, 2256))
