"""The bridge as a process: start and end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from lodestream_common.errors import OperatorError
from rest_bridge.server import make_server
from tests.rest_bridge.bodies import CHAT, chat
from tests.rest_bridge.running import bridge_config
from tests.rest_bridge.wire import Wire, connect
from tests.support.processes import ServerProcess, server_process
from tests.support.scripted import HELLO, Running, eventually, serve


def bridge_process(running: Running, home: Path, **settings: Any) -> Any:
    return server_process("bridge", home, grpc_address=running.target, http_address="127.0.0.1:0", **settings)


class Stalling:
    """A stream that sends its second half when the test allows it."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    async def __call__(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for event in HELLO[:2]:
            yield event
        await self.may_end.wait()
        for event in HELLO[2:]:
            yield event


async def _begin_stream(wire: Wire) -> None:
    wire.post(CHAT, chat(stream=True))
    await wire.read_head()
    assert b"Hel" in await wire.read_chunk()


async def _rest(wire: Wire) -> str:
    raw = b""
    while chunk := await wire.read_chunk():
        raw += chunk
    return raw.decode()


async def _until_closed(address: str) -> None:
    """Wait until the port is closed."""
    host, _, port = address.rpartition(":")
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            return
        writer.close()
        await asyncio.sleep(0.05)
    raise AssertionError("still listening")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_bridge_ends_at_once(running: Running, tmp_path: Path, number: signal.Signals) -> None:
    """The status is 0 although an unused connection is open."""
    async with bridge_process(running, tmp_path) as bridge, httpx.AsyncClient() as http:
        assert (await http.get(f"http://{bridge.address}/health/ready")).status_code == 200
        began = time.monotonic()
        bridge.signal(number)

        assert await bridge.wait() == 0
        assert time.monotonic() - began < 10


async def test_running_requests_finish_before_the_end(running: Running, tmp_path: Path) -> None:
    """After SIGTERM new connections are refused, and running requests finish within the grace period."""
    stalling = Stalling()
    running.service.stream = stalling
    async with (
        bridge_process(running, tmp_path, shutdown_grace=30) as bridge,
        connect(bridge.address) as wire,
    ):
        await _begin_stream(wire)
        bridge.signal(signal.SIGTERM)
        await _until_closed(bridge.address)
        stalling.may_end.set()

        assert (await _rest(wire)).endswith("data: [DONE]\n\n")
        assert await bridge.wait() == 0


async def test_the_end_of_the_grace_period_is_an_error_for_callers(running: Running, tmp_path: Path) -> None:
    """A stream ends with an error event and a plain request with 503; both generations are cancelled."""
    running.service.stream = Stalling()

    async def never(request: Any, context: Any) -> Any:
        await asyncio.sleep(3600)

    running.service.answer = never
    async with (
        bridge_process(running, tmp_path, shutdown_grace=1) as bridge,
        connect(bridge.address) as wire,
        connect(bridge.address) as plain,
    ):
        await _begin_stream(wire)
        plain.post(CHAT, chat())
        await eventually(lambda: running.service.running == 2)
        bridge.signal(signal.SIGTERM)
        end = json.loads((await _rest(wire)).removeprefix("data: "))
        status, headers, body = await plain.read_reply()

        assert end["error"]["code"] == "not_ready"
        assert (status, body["error"]["code"]) == (503, "not_ready")
        assert "retry-after" in headers
        assert await bridge.wait() == 0
        await eventually(lambda: running.service.running == 0)


async def test_a_second_signal_ends_the_bridge_at_once(running: Running, tmp_path: Path) -> None:
    """The length of the grace period does not matter."""
    running.service.stream = Stalling()
    async with (
        bridge_process(running, tmp_path, shutdown_grace=3000) as bridge,
        connect(bridge.address) as wire,
    ):
        await _begin_stream(wire)
        bridge.signal(signal.SIGTERM)
        await _until_closed(bridge.address)
        bridge.signal(signal.SIGTERM)

        assert await bridge.wait(20) == 0


async def test_the_bridge_reconnects_to_a_restarted_service(running: Running, tmp_path: Path) -> None:
    """It answers 503 without the service, and serves again after the restart."""
    async with bridge_process(running, tmp_path) as bridge, httpx.AsyncClient(timeout=30) as http:
        url = f"http://{bridge.address}"
        assert (await _post(http, bridge)).status_code == 200
        await running.server.stop(0)
        assert (await _post(http, bridge)).status_code == 503
        assert (await http.get(f"{url}/health/ready")).status_code == 503
        assert (await http.get(f"{url}/health/live")).status_code == 200
        async with serve(running.service, running.target):
            for _ in range(20):
                reply = await _post(http, bridge)
                if reply.status_code == 200:
                    break
                await asyncio.sleep(float(reply.headers["retry-after"]))
            assert reply.status_code == 200


async def _post(http: httpx.AsyncClient, bridge: ServerProcess) -> httpx.Response:
    return await http.post(f"http://{bridge.address}{CHAT}", json=chat())


def test_a_taken_port_is_an_error_of_one_line() -> None:
    """The error names the setting and the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OperatorError, match=f"http_address: cannot listen on {address}"):
            make_server(bridge_config("127.0.0.1:1", http_address=address), print)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_without_keys_the_bridge_listens_only_on_loopback(address: str) -> None:
    """A bridge without keys refuses addresses that other machines can reach."""
    with pytest.raises(OperatorError, match="create a key first"):
        make_server(bridge_config("127.0.0.1:1", http_address=address), print)


@pytest.mark.parametrize("address", ["8000", "localhost", "127.0.0.1:99999"])
def test_an_invalid_address_is_refused(address: str) -> None:
    """The error names the setting."""
    with pytest.raises(ValidationError, match="http_address"):
        bridge_config("127.0.0.1:1", http_address=address)


def test_http_needs_a_port() -> None:
    """A socket file is refused."""
    with pytest.raises(OperatorError, match=r"^http_address: "):
        make_server(bridge_config("127.0.0.1:1", http_address="unix:/run/bridge.sock"), print)


def test_port_0_of_the_service_is_refused() -> None:
    """Port 0 is valid only for listening."""
    with pytest.raises(OperatorError, match=r"^grpc_address: "):
        make_server(bridge_config("127.0.0.1:0"), print)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_the_real_port_is_announced(running: Running, host: str) -> None:
    """With port 0 the callback gets the given host and the real port."""
    announced: list[str] = []
    server = make_server(bridge_config(running.target, http_address=f"{host}:0"), announced.append)
    serving = asyncio.create_task(server.serve(sockets=[server.socket]))
    await eventually(lambda: bool(announced))
    async with httpx.AsyncClient() as http:
        port = announced[0].rpartition(":")[2]
        assert (await http.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200
    server.should_exit = True
    await asyncio.wait_for(serving, 30)

    assert announced[0].startswith(f"{host}:")
    assert not announced[0].endswith(":0")
