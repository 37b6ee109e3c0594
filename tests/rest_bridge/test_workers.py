"""Several worker processes of one bridge on one port."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from lodestream_common.failed_keys import FREE_FAILURES, FailedKeys, SharedFailedKeys, SharedTimes
from lodestream_common.keys import KeyFile, Level
from rest_bridge.workers import Shared, SharedCap
from tests.rest_bridge.bodies import CHAT, chat
from tests.rest_bridge.wire import Wire, connect
from tests.support.certificates import Certificates
from tests.support.processes import ServerProcess, server_process
from tests.support.scripted import Running, eventually

TIMEOUT_SECONDS = 60.0
"""Seconds that processes may take."""


@asynccontextmanager
async def bridge(running: Running, home: Path, **settings: Any) -> AsyncIterator[ServerProcess]:
    options = {"grpc_address": running.target, "http_address": "127.0.0.1:0", "workers": 2, **settings}
    async with server_process("bridge", home, **options) as process:
        yield process


def workers(server: ServerProcess) -> list[psutil.Process]:
    return [child for child in psutil.Process(server.process.pid).children() if is_worker(child)]


def is_worker(child: psutil.Process) -> bool:
    try:
        return any("spawn_main" in word for word in child.cmdline())
    except psutil.NoSuchProcess:
        # It has just ended.
        return False


async def status_of(wire: Wire) -> int:
    wire.post(CHAT, chat())
    status, _, _ = await wire.read_reply()
    return status


def open_connections(worker: psutil.Process) -> int:
    return sum(c.status == psutil.CONN_ESTABLISHED for c in worker.net_connections("tcp"))


async def test_all_workers_answer_on_the_same_port(running: Running, tmp_path: Path) -> None:
    async with bridge(running, tmp_path) as server, AsyncExitStack() as stack:
        before = [open_connections(worker) for worker in workers(server)]
        wires = [await stack.enter_async_context(connect(server.address)) for _ in range(40)]
        assert [await status_of(wire) for wire in wires] == [200] * 40
        after = [open_connections(worker) for worker in workers(server)]

    assert len(after) == 2
    assert all(now > then for now, then in zip(after, before, strict=True))


async def presented(address: str, count: int = 30) -> set[str]:
    """The certificates that so many new connections get."""
    host, port = address.rsplit(":", 1)
    asking = [asyncio.to_thread(ssl.get_server_certificate, (host, int(port))) for _ in range(count)]
    return {*await asyncio.gather(*asking)}


async def test_every_worker_speaks_tls_and_renews_its_certificate(running: Running, tmp_path: Path) -> None:
    """Each follows the files for itself. A connection that is open goes on."""
    made = Certificates(tmp_path)
    trust = ssl.create_default_context(cafile=made.ca)
    async with (
        bridge(running, tmp_path, **made.issue()) as server,
        httpx.AsyncClient(
            base_url=f"https://{server.address}",
            verify=trust,
            timeout=30,
        ) as http,
    ):
        before = await presented(server.address)
        assert (await http.post(CHAT, json=chat())).status_code == 200

        made.issue()
        for _ in range(100):
            if not before & (after := await presented(server.address)):
                break
            await asyncio.sleep(0.1)

        assert len(workers(server)) == 2
        assert (len(before), len(after), before & after) == (1, 1, set())
        assert (await http.post(CHAT, json=chat())).status_code == 200


async def test_the_connection_limit_applies_to_all_workers_together(running: Running, tmp_path: Path) -> None:
    async with bridge(running, tmp_path, max_connections=6) as server, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connect(server.address)) for _ in range(6)]
        assert [await status_of(wire) for wire in wires] == [200] * 6
        for _ in range(4):
            async with connect(server.address) as extra:
                status, _, reply = await extra.read_reply()
            assert (status, reply["error"]["code"]) == (503, "not_ready")
        await stack.aclose()

        for _ in range(100):
            # A refused connection may be closed before the request is read.
            with suppress(ConnectionError):
                async with connect(server.address) as again:
                    if await status_of(again) == 200:
                        return
            await asyncio.sleep(0.1)
        pytest.fail("connections are refused for ever")


async def test_a_worker_that_died_is_replaced(running: Running, tmp_path: Path) -> None:
    async with bridge(running, tmp_path) as server:
        first = workers(server)
        first[0].kill()
        await eventually(lambda: len(now := workers(server)) == 2 and first[0] not in now, TIMEOUT_SECONDS)
        async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=TIMEOUT_SECONDS) as http:
            replies = [await http.post(CHAT, json=chat(), headers={"connection": "close"}) for _ in range(10)]

    assert [reply.status_code for reply in replies] == [200] * 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_all_workers(running: Running, tmp_path: Path, number: signal.Signals) -> None:
    async with bridge(running, tmp_path) as server:
        children = workers(server)
        server.signal(number)
        assert await server.wait(60) == 0

    assert not any(child.is_running() for child in children)


async def test_workers_end_with_their_supervisor(running: Running, tmp_path: Path) -> None:
    async with bridge(running, tmp_path) as server:
        children = workers(server)
        server.process.kill()
        await eventually(lambda: not any(child.is_running() for child in children), TIMEOUT_SECONDS)


async def test_a_taken_port_is_an_error(running: Running, tmp_path: Path) -> None:
    async with bridge(running, tmp_path) as first:
        with pytest.raises(AssertionError, match="ended with status 1"):
            async with bridge(running, tmp_path, http_address=first.address):
                pass


def test_failed_keys_count_across_workers() -> None:
    times = SharedTimes.make()
    now = 1000.0
    one, other = (SharedFailedKeys(times, lambda: now) for _ in range(2))
    alone = FailedKeys(lambda: now)

    delays = [keys.delay("192.0.2.1") for _ in range(FREE_FAILURES) for keys in (one, other)]

    assert delays == [alone.delay("192.0.2.1") for _ in delays]
    assert delays[-1] > 0
    assert one.delay("192.0.2.2") == 0, "of another address"


async def test_workers_delay_failed_keys_together(running: Running, tmp_path: Path) -> None:
    """Each worker alone would refuse its half without delay."""
    keys = tmp_path / "keys.json"
    KeyFile(keys).create("alice", Level.READ_WRITE)
    headers = {"authorization": "Bearer pg_" + "x" * 40, "connection": "close"}
    async with (
        bridge(running, tmp_path, keys_file=keys) as server,
        httpx.AsyncClient(base_url=f"http://{server.address}", timeout=TIMEOUT_SECONDS) as http,
    ):
        began = time.monotonic()
        asking = [http.get("/v1/models", headers=headers) for _ in range(2 * FREE_FAILURES)]
        replies = await asyncio.gather(*asking)

    assert {reply.status_code for reply in replies} == {401}
    assert time.monotonic() - began >= 4.5


def test_the_connection_count_covers_all_workers() -> None:
    shared = Shared.of(2)
    one, other = (SharedCap(5, shared, number) for number in range(2))

    assert one.accepts(3)
    assert other.accepts(2)
    assert not other.accepts(3)
    assert one.is_reached, "so that this worker ends idle connections, too"
    other.update(2)
    one.update(0)
    other.update(2)
    assert not one.is_reached
    assert one.accepts(3)
    shared.forget(0)
    assert other.accepts(5)


async def test_a_request_is_logged_once(running: Running, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stream:
        async with bridge(running, tmp_path, stderr=stream, log_level="info", log_format="json") as server:
            async with connect(server.address) as wire:
                assert await status_of(wire) == 200
            server.signal(signal.SIGTERM)
            await server.wait(60)

    assert log.read_text().count('"event": "request"') == 1


async def test_metrics_are_the_sums_of_all_workers(running: Running, tmp_path: Path) -> None:
    async with bridge(running, tmp_path) as server, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connect(server.address)) for _ in range(40)]
        assert [await status_of(wire) for wire in wires] == [200] * 40
        first = workers(server)
        first[0].kill()
        await eventually(lambda: len(now := workers(server)) == 2 and first[0] not in now, TIMEOUT_SECONDS)
        async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=TIMEOUT_SECONDS) as http:
            text = (await http.get("/metrics")).text

    counted = [line for line in text.splitlines() if line.startswith("lodestream_bridge_requests_total{")]
    assert [line.rpartition(" ")[2] for line in counted if CHAT in line] == ["40.0"]
    assert "lodestream_bridge_requests_active 1.0" in text
    assert "lodestream_build_info{" in text
    assert "process_resident_memory_bytes" not in text, "that of one worker would say nothing"
