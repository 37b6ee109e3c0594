from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from inference_client import AsyncClient, Client, Delta, InferenceError, Started, TlsConfig, UnavailableError
from inference_client.channel import channel_options
from tests.inference_client.conftest import CallerFactory
from tests.support.scripted import ScriptedService, serve

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server_process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service with an endless stream in its own process, and its target."""
    command = [sys.executable, "-m", "tests.support.scripted"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


async def test_a_killed_server_ends_its_streams(
    server_process: tuple[subprocess.Popen[str], str],
) -> None:
    """They end with the reset of the connection, without waiting for a keepalive."""
    process, target = server_process
    killed: list[float] = []

    async def read(client: AsyncClient) -> tuple[float, InferenceError]:
        deltas = 0
        try:
            async with client.stream(model="m", prompt="p") as stream:
                async for event in stream:
                    deltas += isinstance(event, Delta)
                    if deltas == 3 and not killed:
                        killed.append(time.monotonic())
                        process.send_signal(signal.SIGKILL)
        except InferenceError as error:
            return time.monotonic() - killed[0], error
        raise AssertionError("the stream ended well")

    async with AsyncClient(target) as client:
        results = await asyncio.wait_for(asyncio.gather(*(read(client) for _ in range(10))), 30)

    for seconds, error in results:
        assert (type(error), error.code) == (UnavailableError, "not_ready")
        assert seconds < 5


async def test_a_killed_server_ends_a_sync_stream(
    server_process: tuple[subprocess.Popen[str], str],
) -> None:
    process, target = server_process

    def read() -> None:
        with Client(target) as client, client.stream(model="m", prompt="p") as stream:
            assert isinstance(next(stream), Started)
            process.send_signal(signal.SIGKILL)
            for _ in stream:
                pass

    with pytest.raises(UnavailableError):
        await asyncio.wait_for(asyncio.to_thread(read), 30)


async def test_the_client_reconnects_to_a_restarted_server(make_caller: CallerFactory) -> None:
    """The port is the same, and the client has been refused there many times."""
    service = ScriptedService()
    async with serve(service) as first:
        target = first.target
        caller = make_caller(target, retries=0)
        await caller.call("generate", model="m", prompt="p")
    began = time.monotonic()
    while time.monotonic() - began < 3:  # This is long enough for the pauses between attempts to grow.
        with pytest.raises(UnavailableError):
            await caller.call("generate", model="m", prompt="p")
        await asyncio.sleep(0.1)

    async with serve(service, target):
        returned = time.monotonic()
        while True:
            try:
                await caller.call("generate", model="m", prompt="p")
                break
            except UnavailableError:
                assert time.monotonic() - returned < 10
                await asyncio.sleep(0.02)

    assert time.monotonic() - returned < 5


async def test_retries_cover_a_restart_of_the_service(make_caller: CallerFactory) -> None:
    """A short restart causes no error."""
    service = ScriptedService()
    async with serve(service) as first:
        target = first.target
        caller = make_caller(target, retries=6)
        await caller.call("generate", model="m", prompt="p")
    call = asyncio.create_task(caller.call("generate", model="m", prompt="p"))
    await asyncio.sleep(0.5)
    async with serve(service, target):
        assert (await asyncio.wait_for(call, 30)).text == "Hello"


async def test_replicas_share_the_load(make_caller: CallerFactory) -> None:
    """Every address of the target is used."""
    services = [ScriptedService(), ScriptedService()]
    async with serve(services[0]) as one, serve(services[1]) as two:
        caller = make_caller(f"ipv4:{one.target},{two.target}")
        deadline = time.monotonic() + 10
        while not all(service.seen for service in services):
            assert time.monotonic() < deadline
            await caller.call("generate", model="m", prompt="p")


async def test_two_clients_have_two_connections(make_caller: CallerFactory) -> None:
    service = ScriptedService()
    peers: set[str] = set()

    async def answer(request: Any, context: Any) -> Any:
        from tests.support.scripted import whole_answer

        peers.add(context.peer())
        return whole_answer()

    service.answer = answer
    async with serve(service) as running:
        for caller in (make_caller(running.target), make_caller(running.target)):
            await caller.call("generate", model="m", prompt="p")

    assert len(peers) == 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A key and a certificate for the name `inference.test`, PEM."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=inference.test",
    ]
    command += ["-addext", "subjectAltName=DNS:inference.test"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return (folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()


async def test_tls_checks_the_name_of_the_server(
    make_caller: CallerFactory, certificate: tuple[bytes, bytes]
) -> None:
    key, chain = certificate
    credentials = grpc.ssl_server_credentials([(key, chain)])
    async with serve(ScriptedService(), credentials=credentials) as running:
        named = TlsConfig(root_certificates=chain, server_name="inference.test")
        assert (
            await make_caller(running.target, tls=named).call("generate", model="m", prompt="p")
        ).text == "Hello"

        unnamed = TlsConfig(root_certificates=chain)
        with pytest.raises(UnavailableError):
            await make_caller(running.target, tls=unnamed, retries=0).call("generate", model="m", prompt="p")


@pytest.mark.parametrize(
    ("target", "proxied"),
    [
        ("127.0.0.1:50051", False),
        ("localhost:50051", False),
        ("dns:///localhost:1", False),
        ("[::1]:50051", False),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", False),
        ("unix:/run/x.sock", False),
        ("inference.internal:50051", True),
        ("dns:///inference.internal:50051", True),
    ],
)
def test_loopback_does_not_use_the_proxy_of_the_environment(target: str, proxied: bool) -> None:
    assert (("grpc.enable_http_proxy", 0) not in channel_options(target, 1, None)) is proxied


async def test_a_unix_socket_is_a_target(make_caller: CallerFactory, tmp_path: Path) -> None:
    service = ScriptedService()
    async with serve(service, f"unix:{tmp_path}/s"):
        assert (
            await make_caller(f"unix:{tmp_path}/s").call("generate", model="m", prompt="p")
        ).text == "Hello"


async def test_client_pings_are_rarer_than_the_service_s_limit() -> None:
    """A client above the service's minimum interval never gets `too_many_pings`."""
    from inference_client.channel import KEEPALIVE_TIME_MS
    from inference_service.rpc.connections import MIN_CLIENT_PING_INTERVAL_MS

    assert KEEPALIVE_TIME_MS >= 2 * MIN_CLIENT_PING_INTERVAL_MS


async def _silent(request: Any, context: Any) -> AsyncIterator[Any]:
    from tests.support.scripted import HELLO

    yield HELLO[0]
    await asyncio.sleep(3)
    for event in HELLO[1:]:
        yield event


async def test_pings_during_a_long_silence_are_accepted(
    make_caller: CallerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both keepalive settings at a hundredth there are many pings without data, and no GOAWAY."""
    from inference_client import channel
    from inference_service.rpc import connections as service_channel

    service = ScriptedService()
    service.stream = _silent
    min_interval = service_channel.MIN_CLIENT_PING_INTERVAL_MS // 100
    scaled = [
        (name, min_interval if name == "grpc.http2.min_ping_interval_without_data_ms" else value)
        for name, value in service_channel.channel_options(1 << 20, 10.0, 100)
    ]
    monkeypatch.setattr(channel, "KEEPALIVE_TIME_MS", channel.KEEPALIVE_TIME_MS // 100)
    async with serve(service, options=scaled) as running:
        assert len(await make_caller(running.target).events(model="m", prompt="p")) == 5
