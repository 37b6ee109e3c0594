"""The service behind a proxy such as Envoy: whose address is logged, and by which failed keys are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lodestream.inference.v1 import model_service_pb2 as model_pb
from lodestream.inference.v1 import model_service_pb2_grpc as model_grpc
from structlog.testing import capture_logs

from lodestream_common.keys import KeyFile
from tests.support.calls import TIMEOUT_SECONDS, refusal
from tests.support.service import Running, connect, running_service

CALLER = "203.0.113.9"
LIST = model_pb.ListModelsRequest()


def metadata(*values: str, **more: str) -> grpc.aio.Metadata:
    """`x-forwarded-for` once for each value."""
    pairs = [*more.items(), *(("x-forwarded-for", value) for value in values)]
    return grpc.aio.Metadata(*pairs)


async def logged_clients(service: Running, *headers: grpc.aio.Metadata) -> list[Any]:
    with capture_logs() as lines:
        for header in headers:
            await service.model_stub.ListModels(LIST, metadata=header, timeout=TIMEOUT_SECONDS)
    return [line["client"] for line in lines if line["event"] == "rpc"]


@pytest.mark.parametrize(
    ("trusted", "client"), [((), "127.0.0.1"), (("10.0.0.0/8",), "127.0.0.1"), (("127.0.0.1",), CALLER)]
)
async def test_the_header_counts_only_from_a_trusted_peer(trusted: tuple[str, ...], client: str) -> None:
    async with running_service(trusted_proxies=trusted) as service:
        found = await logged_clients(
            service, metadata(CALLER), metadata("198.51.100.1", CALLER), metadata("garbage"), metadata()
        )

    assert found == [client, client, "127.0.0.1", "127.0.0.1"]


async def test_peers_on_a_socket_file(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'service.sock'}"
    for trusted, client in (((), "unix"), (("unix",), CALLER)):
        async with running_service(grpc_address=address, trusted_proxies=trusted) as service:
            assert await logged_clients(service, metadata(CALLER)) == [client]


async def test_failed_keys_count_by_the_caller_behind_the_proxy(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    keys.create("alice")
    async with running_service(keys_file=keys.path, trusted_proxies=("127.0.0.1",)) as service:
        for address in ("203.0.113.1", "203.0.113.2", "203.0.113.2"):
            header = metadata(address, authorization="Bearer pg_wrong")
            await refusal(service.model_stub.ListModels(LIST, metadata=header, timeout=TIMEOUT_SECONDS))
        failed = service.server._access._failed

    assert sorted(failed._due) == ["203.0.113.1", "203.0.113.2"]


async def test_ipv6() -> None:
    settings: dict[str, Any] = {"grpc_address": "[::1]:0", "trusted_proxies": ("::1",)}
    async with running_service(**settings) as service, connect(service.address) as channel:
        stub = model_grpc.ModelServiceStub(channel)
        with capture_logs() as lines:
            await stub.ListModels(LIST, metadata=metadata("[2001:db8::7]:443"), timeout=TIMEOUT_SECONDS)

    assert [line["client"] for line in lines if line["event"] == "rpc"] == ["2001:db8::7"]


async def test_reflection_and_probes_have_lines() -> None:
    """Those of probes at debug only."""
    async with running_service() as service:
        with capture_logs() as lines:
            reflect: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", service.channel))
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            answers = [answer async for answer in reflect.ServerReflectionInfo(iter([request]))]
            check: Any = service.channel.unary_unary("/grpc.health.v1.Health/Check")
            await check(b"", timeout=TIMEOUT_SECONDS)
        found = [(line["method"], line["log_level"], line["outcome"], line["client"]) for line in lines]

    assert len(answers) == 1
    assert found == [
        ("ServerReflectionInfo", "info", "ok", "127.0.0.1"),
        ("Check", "debug", "ok", "127.0.0.1"),
    ]
