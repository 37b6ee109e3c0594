"""Keys, levels and rate limits over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lodestream.inference.v1 import model_service_pb2 as model_pb

from inference_service.server import Server
from lodestream_common.errors import OperatorError
from lodestream_common.keys import KeyFile, Level
from tests.support.calls import TIMEOUT_SECONDS, ask, endless, eventually, read_stream, refusal
from tests.support.health import Watcher
from tests.support.service import MODEL_ID, Running, running_service, service_config
from tests.support.statuses import ReceivedStatus, status_of_call

Code = grpc.StatusCode


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


@asynccontextmanager
async def keyed_service(keys: KeyFile, **settings: Any) -> AsyncIterator[Running]:
    async with running_service(keys_file=keys.path, **settings) as service:
        yield service


def bearing(token: str, scheme: str = "Bearer ") -> grpc.aio.Metadata:
    return grpc.aio.Metadata(("authorization", f"{scheme}{token}"))


def all_methods(service: Running, metadata: grpc.aio.Metadata | None) -> list[Any]:
    """A call of every method of our services."""
    models = service.model_stub
    return [
        service.generate_stub.Generate(ask(), metadata=metadata),
        service.generate_stub.GenerateStream(ask(), metadata=metadata),
        models.ListModels(model_pb.ListModelsRequest(), metadata=metadata),
        models.GetModel(model_pb.GetModelRequest(model=MODEL_ID), metadata=metadata),
        models.CountTokens(model_pb.CountTokensRequest(model=MODEL_ID, prompt="p"), metadata=metadata),
    ]


def list_models(service: Running, token: str) -> Any:
    return service.model_stub.ListModels(
        model_pb.ListModelsRequest(), metadata=bearing(token), timeout=TIMEOUT_SECONDS
    )


async def opens(service: Running, token: str) -> bool:
    """Whether a key is accepted now."""
    try:
        await list_models(service, token)
    except grpc.aio.AioRpcError as error:
        if error.code() is not Code.UNAUTHENTICATED:
            raise
        return False
    return True


async def until_it(service: Running, token: str, *, works: bool) -> None:
    """Wait until a key is accepted, or no longer is."""
    for _ in range(100):
        if await opens(service, token) is works:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the change of the keys was not picked up")


def is_unauthenticated(status: ReceivedStatus) -> bool:
    return (status.code, status.reason) == (Code.UNAUTHENTICATED, "INVALID_API_KEY")


async def test_without_a_valid_key_every_method_is_refused(keys: KeyFile) -> None:
    _, token = keys.create("alice")
    _, revoked = keys.create("bob")
    keys.revoke("bob")
    async with keyed_service(keys) as service:
        wrong = [
            None,
            bearing(""),
            bearing("pg_unknown"),
            bearing(revoked),
            bearing(token[:-1]),
            bearing(token, scheme=""),
            bearing(token, scheme="Basic "),
            grpc.aio.Metadata(("x-api-key", token)),
        ]
        for metadata in wrong:
            for call in all_methods(service, metadata):
                status = await refusal(call)
                assert is_unauthenticated(status)
                assert token not in status.message
                assert revoked not in status.message


async def test_with_a_valid_key_every_method_works(keys: KeyFile) -> None:
    _, token = keys.create("alice")
    async with keyed_service(keys) as service:
        for metadata in (
            bearing(token),
            bearing(token, scheme="bearer "),
            bearing(token, scheme="BEARER   "),
        ):
            answer, stream, *models = all_methods(service, metadata)
            assert (await answer).choices
            assert (await read_stream(stream)).text
            await asyncio.wait_for(asyncio.gather(*models), TIMEOUT_SECONDS)


async def test_a_key_that_may_only_read_may_not_generate(keys: KeyFile) -> None:
    _, token = keys.create("reader", Level.READ_ONLY)
    async with keyed_service(keys) as service:
        answer, stream, *models = all_methods(service, bearing(token))

        for call in (answer, stream):
            status = await refusal(call)
            assert (status.code, status.reason) == (Code.PERMISSION_DENIED, "INSUFFICIENT_SCOPE")
            assert "read-write" in status.message
        await asyncio.wait_for(asyncio.gather(*models), TIMEOUT_SECONDS)


async def test_errors_about_keys_carry_the_request_id(keys: KeyFile) -> None:
    keys.create("alice")
    async with keyed_service(keys) as service:
        call = service.generate_stub.Generate(ask(), metadata=grpc.aio.Metadata(("x-request-id", "mine")))
        await refusal(call)

        assert ("x-request-id", "mine") in list(await call.initial_metadata())


async def test_keys_are_created_and_revoked_while_the_service_runs(keys: KeyFile) -> None:
    _, alice = keys.create("alice")
    async with keyed_service(keys) as service:
        assert await opens(service, alice)

        _, bob = keys.create("bob")
        await until_it(service, bob, works=True)

        keys.revoke("alice")
        await until_it(service, alice, works=False)
        assert await opens(service, bob)


async def test_a_key_expires_while_the_service_runs(keys: KeyFile) -> None:
    """Its running stream ends, and further calls are refused."""
    keys.create("other")
    _, token = keys.create("alice", lifetime=3)
    async with keyed_service(keys, simulated_decode_tps=20) as service:
        stream = service.generate_stub.GenerateStream(endless(), metadata=bearing(token))

        status = await refusal(stream)

        assert is_unauthenticated(status)
        assert "expired" in status.message
        await until_it(service, token, works=False)


async def test_a_key_for_other_models_may_not_use_this_one(keys: KeyFile) -> None:
    _, token = keys.create("alice", models=("other", "more"))
    async with keyed_service(keys) as service:
        answer, stream, listed, one, count = all_methods(service, bearing(token))

        for call in (answer, stream, one, count):
            status = await refusal(call)
            assert (status.code, status.reason) == (Code.PERMISSION_DENIED, "INSUFFICIENT_SCOPE")
            assert "only: other, more" in status.message
        assert not (await asyncio.wait_for(listed, TIMEOUT_SECONDS)).models


@pytest.mark.parametrize("listed", [(MODEL_ID,), ("nick",)])
async def test_a_key_may_use_a_listed_name_and_the_names_of_a_listed_id(
    keys: KeyFile, listed: tuple[str, ...]
) -> None:
    _, token = keys.create("alice", models=listed)
    async with keyed_service(keys, alias={"nick": MODEL_ID}) as service:
        models = (await list_models(service, token)).models

        assert [model.id for model in models] == ([MODEL_ID, "nick"] if listed == (MODEL_ID,) else ["nick"])
        for model in models:
            request = ask()
            request.model = model.id
            await service.generate_stub.Generate(request, metadata=bearing(token), timeout=TIMEOUT_SECONDS)


async def test_a_server_requires_keys_from_its_first_key_on(keys: KeyFile) -> None:
    async with keyed_service(keys) as service:
        assert (await service.generate_stub.Generate(ask(), timeout=TIMEOUT_SECONDS)).choices

        _, token = keys.create("alice")
        await until_it(service, "pg_nobody", works=False)

        assert await opens(service, token)
        keys.revoke("alice")
        await until_it(service, token, works=False)


async def test_a_key_s_requests_are_counted_and_come_back(keys: KeyFile) -> None:
    _, alice = keys.create("alice")
    _, bob = keys.create("bob")
    async with keyed_service(keys, requests_per_minute=60) as service:
        accepted, status = await spend(service, alice)

        assert 60 <= accepted < 200
        assert (status.code, status.reason) == (Code.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED")
        assert dict(status.info.metadata) == {"limit": "60"}
        assert len(status.all_of(details_pb.QuotaFailure)) == 1
        assert 0 < status.retry_seconds <= 1
        await list_models(service, bob)
        await asyncio.sleep(status.retry_seconds + 0.05)
        await list_models(service, alice)


async def in_turns(service: Running, token: str, count: int) -> list[Any]:
    """Send `count` requests, as many at once as a connection allows."""
    ended: list[Any] = []
    for _ in range(0, count, 50):
        ended += await asyncio.gather(
            *[list_models(service, token) for _ in range(50)], return_exceptions=True
        )
    return ended


async def spend(service: Running, token: str) -> tuple[int, ReceivedStatus]:
    """Ask more often than allowed. Return the number of accepted requests and the status of a refused one."""
    ended = await in_turns(service, token, 200)
    refused = [end for end in ended if isinstance(end, grpc.aio.AioRpcError)]
    return len(ended) - len(refused), status_of_call(refused[-1])


async def test_a_limit_of_0_requests_a_minute_means_no_limit(keys: KeyFile) -> None:
    _, token = keys.create("alice")
    async with keyed_service(keys, requests_per_minute=0) as service:
        ended = await in_turns(service, token, 150)

    assert not any(isinstance(end, BaseException) for end in ended)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_a_server_without_keys_listens_only_on_this_machine(keys: KeyFile, address: str) -> None:
    with pytest.raises(OperatorError, match="grpc_address"):
        Server(service_config(grpc_address=address, keys_file=keys.path))


async def test_a_server_with_keys_listens_on_any_address(keys: KeyFile) -> None:
    keys.create("alice")
    async with keyed_service(keys, grpc_address="0.0.0.0:0", insecure=True) as service:
        assert service.address.startswith("0.0.0.0:")


def test_a_server_does_not_start_with_a_broken_key_file(keys: KeyFile) -> None:
    keys.path.write_text("{")

    with pytest.raises(OperatorError, match=r"keys\.json"):
        Server(service_config(keys_file=keys.path))


async def test_probes_need_no_key(keys: KeyFile) -> None:
    keys.create("alice")
    async with keyed_service(keys) as service:
        assert await Watcher(service.channel).serving()


async def test_reflection_needs_a_key_of_any_level(keys: KeyFile) -> None:
    _, token = keys.create("reader", Level.READ_ONLY)
    async with keyed_service(keys) as service:
        channel: Any = service.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]

        assert is_unauthenticated(await refusal(stub.ServerReflectionInfo(iter(requests))))
        answered = stub.ServerReflectionInfo(iter(requests), metadata=bearing(token))
        response = await asyncio.wait_for(anext(aiter(answered)), TIMEOUT_SECONDS)
        assert response.list_services_response.service


async def test_each_key_is_a_tenant(keys: KeyFile) -> None:
    """A key that floods the queue delays only itself: another key's request is next but one."""
    tokens = {name: keys.create(name)[1] for name in ("flooder", "quiet")}
    ended: list[str] = []

    async def asked(name: str) -> None:
        metadata = bearing(tokens[name])
        await read_stream(service.generate_stub.GenerateStream(ask(), metadata=metadata))
        ended.append(name)

    async with keyed_service(keys, max_concurrency=1, simulated_decode_tps=200) as service:
        admission = service.loaded.admission
        # Occupies the engine until all others wait.
        first = service.generate_stub.GenerateStream(endless(), metadata=bearing(tokens["flooder"]))
        await first.read()
        flood = [asyncio.create_task(asked("flooder")) for _ in range(9)]
        await eventually(lambda: admission.waiting == 9)
        quiet = asyncio.create_task(asked("quiet"))
        await eventually(lambda: admission.waiting == 10)
        first.cancel()
        await asyncio.gather(*flood, quiet)

    assert ended.index("quiet") <= 2
