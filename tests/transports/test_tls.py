"""TLS on both servers: mTLS of the service, certificates of the bridge, rotation while requests run."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_client import AsyncClient, Client, Delta, Started, TlsConfig, UnavailableError
from inference_service.server import Server
from lodestream import health
from lodestream_common.errors import OperatorError
from lodestream_common.keys import KeyFile
from rest_bridge.server import make_server
from tests.rest_bridge.running import RunningBridge, bridge_config, running_bridge
from tests.support.certificates import Certificates
from tests.support.service import MODEL_ID, service_config

PROMPT: dict[str, Any] = {"model": "", "prompt": "Hello", "max_tokens": 4}


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@asynccontextmanager
async def tls_service(made: Certificates, *, mutual: bool = True) -> AsyncIterator[str]:
    """Serve gRPC over TLS. Yields the address."""
    server = Server(service_config(**made.issue("service"), tls_client_ca=made.ca if mutual else None))
    try:
        yield str(await server.start())
    finally:
        await server.stop()


@asynccontextmanager
async def tls_bridge(made: Certificates, service: str) -> AsyncIterator[RunningBridge]:
    """Serve HTTPS with a bridge to a service."""
    settings = {**made.issue("bridge-http"), **made.towards_service()}
    async with running_bridge(service, **settings) as bridge:
        yield bridge


def https(made: Certificates, bridge: RunningBridge, **options: Any) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=made.ca)
    return httpx.AsyncClient(base_url=f"https://{bridge.address}", verify=context, timeout=30, **options)


async def complete(http: httpx.AsyncClient) -> httpx.Response:
    model = (await http.get("/v1/models")).json()["data"][0]["id"]
    return await http.post("/v1/completions", json={**PROMPT, "model": model})


async def names(target: str, tls: TlsConfig | None) -> list[str]:
    async with AsyncClient(target, tls=tls, retries=0, timeout=10) as client:
        return [model.id for model in await client.list_models()]


async def test_mtls_accepts_only_clients_of_the_authority(made: Certificates, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Certificates(tmp_path / "other").client()
    own = made.client()
    foreign = TlsConfig(own.root_certificates, stranger.certificate_chain, stranger.private_key)
    async with tls_service(made) as target:
        assert await names(target, own)
        for refused in (made.client(own=False), foreign, stranger, None):
            with pytest.raises(UnavailableError):
                await names(target, refused)


async def test_clients_renew_their_certificates(made: Certificates) -> None:
    """Running calls continue; further calls use the new certificates."""
    own = made.client()
    async with tls_service(made) as address:
        async with AsyncClient(address, tls=TlsConfig(own.root_certificates), retries=0) as client:
            with pytest.raises(UnavailableError):
                await client.list_models(timeout=10)
            client.use_tls(own)
            assert await client.list_models(timeout=10)
        with Client(address, tls=own, retries=0) as blocking:
            with blocking.stream(model=MODEL_ID, prompt="@sim(stall_at=2)", max_tokens=9) as stream:
                events = iter(stream)
                assert isinstance(await asyncio.to_thread(next, events), Started)
                blocking.use_tls(TlsConfig(own.root_certificates))
                assert isinstance(await asyncio.to_thread(next, events), Delta)
            with pytest.raises(UnavailableError):
                await asyncio.to_thread(blocking.list_models, timeout=10)


async def test_tls_alone_needs_no_client_certificate(made: Certificates) -> None:
    async with tls_service(made, mutual=False) as target:
        assert await names(target, made.client(own=False))


async def test_the_bridge_uses_tls_to_callers_and_to_the_service(made: Certificates) -> None:
    async with tls_service(made) as target, tls_bridge(made, target) as bridge, https(made, bridge) as http:
        reply = await complete(http)
        assert reply.status_code == 200
        assert reply.json()["usage"]["completion_tokens"] == 4
        async with httpx.AsyncClient() as plain:
            with pytest.raises(httpx.HTTPError):
                await plain.get(f"http://{bridge.address}/health/live")


async def test_lodestream_health_probes_both_servers_over_tls(made: Certificates) -> None:
    async with tls_service(made) as target, tls_bridge(made, target) as bridge:
        own = made.home / "bridge-http.pem"
        settings = bridge_config(
            target,
            service_ca=made.ca,
            service_certificate=made.home / "bridge.pem",
            service_key=made.home / "bridge.key",
            tls_certificate=own,
        )
        tls = health.ProbeTls.of(settings)
        assert await asyncio.to_thread(health.probe, target, 5.0, tls) == health.SERVING
        url = f"https://{bridge.address}"
        assert await asyncio.to_thread(health.probe, url, 5.0, tls) == health.SERVING
        for address in (target, url):
            assert (await asyncio.to_thread(health.probe, address, 5.0)).startswith("unreachable")


async def keep_asking(ask: Callable[[], Awaitable[object]], stop: asyncio.Event) -> int:
    """Repeat a request until `stop`. Return how often; the first failure is raised."""
    count = 0
    while not stop.is_set():
        await ask()
        count += 1
    return count


def presented(address: str) -> str:
    """The certificate of a new connection, as PEM."""
    host, port = address.rsplit(":", 1)
    return ssl.get_server_certificate((host, int(port)), timeout=10)


async def until_presented_changes(address: str, before: str) -> None:
    """Wait until new connections have another certificate."""
    for _ in range(200):
        if await asyncio.to_thread(presented, address) != before:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the certificate did not change within 20 seconds")


async def test_rotation_of_the_bridge_loses_no_request(made: Certificates) -> None:
    """Requests run on new connections and on one that stays open; new connections get the new certificate."""
    async with tls_service(made) as target, tls_bridge(made, target) as bridge, https(made, bridge) as kept:
        stop = asyncio.Event()

        async def fresh() -> None:
            async with https(made, bridge) as http:
                assert (await complete(http)).status_code == 200

        async def steady() -> None:
            assert (await complete(kept)).status_code == 200

        asking = [asyncio.create_task(keep_asking(ask, stop)) for ask in (fresh, steady)]
        before = await asyncio.to_thread(presented, bridge.address)
        made.issue("bridge-http")
        made.issue("bridge")
        await until_presented_changes(bridge.address, before)
        await asyncio.sleep(0.5)
        stop.set()
        assert all(count > 0 for count in await asyncio.gather(*asking))


async def test_rotation_of_the_service_loses_no_call(made: Certificates) -> None:
    """The new certificate is from a new authority; afterwards only its clients can connect."""
    async with tls_service(made) as target:
        tls, stop = made.client(), asyncio.Event()

        async def fresh() -> None:
            assert await names(target, clients[-1])

        clients = [tls]
        async with AsyncClient(target, tls=tls, retries=0) as kept:
            asking = [asyncio.create_task(keep_asking(ask, stop)) for ask in (fresh, kept.list_models)]
            await asyncio.sleep(0.5)
            made.issue("service")
            await asyncio.sleep(2.0)
            stop.set()
            assert all(count > 0 for count in await asyncio.gather(*asking))

        old = made.client()
        made.authority = Certificates(made.home).authority
        assert made.ca.exists()
        made.issue("service")
        for _ in range(100):
            try:
                assert await names(target, made.client())
                break
            except UnavailableError:
                await asyncio.sleep(0.2)
        else:
            pytest.fail("the service did not follow its files within 20 seconds")
        with pytest.raises(UnavailableError):
            await names(target, old)


async def test_the_bridge_reloads_its_client_certificate(made: Certificates) -> None:
    """After both sides changed to a new authority, requests succeed again, without a restart."""
    async with tls_service(made) as target, tls_bridge(made, target) as bridge, https(made, bridge) as http:
        assert (await complete(http)).status_code == 200
        made.authority = Certificates(made.home).authority
        made.issue("service")
        made.towards_service()
        client: AsyncClient = bridge.server.config.loaded_app.state.bridge.client
        first = client._pool.opened
        for _ in range(200):
            assert (await complete(http)).status_code == 200
            if client._pool.opened and client._pool.opened != first:
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("the bridge did not follow its files within 20 seconds")


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
async def test_plain_text_beyond_loopback_needs_the_flag(
    made: Certificates, address: str, tmp_path: Path
) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    keys.create("alice")
    with pytest.raises(OperatorError, match=r"^grpc_address: .*--insecure"):
        Server(service_config(grpc_address=address, keys_file=keys.path))
    with pytest.raises(OperatorError, match=r"^http_address: .*--insecure"):
        make_server(bridge_config("127.0.0.1:1", http_address=address, keys_file=keys.path), print)
    with pytest.raises(OperatorError, match=r"^grpc_address: .*--service-ca.*--insecure"):
        make_server(bridge_config("192.0.2.1:1"), print)
    Server(service_config(grpc_address=address, keys_file=keys.path, insecure=True))
    Server(service_config(grpc_address=address, keys_file=keys.path, **made.issue()))


@pytest.mark.parametrize("alone", ["tls_client_ca", "service_certificate", "service_server_name"])
def test_a_setting_without_effect_is_refused(made: Certificates, alone: str) -> None:
    value = {alone: "x.test" if alone == "service_server_name" else made.ca}

    def make() -> object:
        if alone == "tls_client_ca":
            return Server(service_config(**value))
        return make_server(bridge_config("127.0.0.1:1", **value), print)

    with pytest.raises(OperatorError, match=f"^{alone}: needs"):
        make()
