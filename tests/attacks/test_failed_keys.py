"""Callers that try keys are slowed down on both transports; valid keys from the same address are not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from lodestream.inference.v1 import model_service_pb2 as model_pb
from lodestream.inference.v1 import model_service_pb2_grpc as model_grpc

from lodestream_common.keys import KeyFile, Level
from tests.support.transports import running_transports

WRONG = "pg_" + "x" * 40
Ask = Callable[[str | None], Coroutine[Any, Any, bool]]
"""Lists the models with a key. Returns whether the key was accepted."""


@dataclass(frozen=True, slots=True)
class KeyedServers:
    """Both servers with API keys."""

    ways: dict[str, Ask]
    key: str
    revoked: str


@pytest_asyncio.fixture
async def servers(tmp_path: Path) -> AsyncIterator[KeyedServers]:
    keys = KeyFile(tmp_path / "keys.json")
    key, revoked = (keys.create(name, Level.READ_WRITE)[1] for name in ("alice", "mallory"))
    keys.revoke("mallory")
    settings: dict[str, Any] = {"keys_file": tmp_path / "keys.json", "requests_per_minute": 0}
    async with (
        running_transports(backend="simulated", **settings) as transports,
        grpc.aio.insecure_channel(transports.service.address) as channel,
        httpx.AsyncClient(base_url=transports.url, timeout=30) as http,
    ):
        stub = model_grpc.ModelServiceStub(channel)

        async def by_grpc(token: str | None) -> bool:
            metadata = () if token is None else (("authorization", f"Bearer {token}"),)
            try:
                await stub.ListModels(model_pb.ListModelsRequest(), metadata=metadata, timeout=30)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    return False
                raise
            return True

        async def by_rest(token: str | None) -> bool:
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            answer = await http.get("/v1/models", headers=headers)
            assert answer.status_code in (200, 401)
            return answer.status_code == 200

        yield KeyedServers({"grpc": by_grpc, "rest": by_rest}, key, revoked)


@pytest.mark.parametrize("way", ["grpc", "rest"])
async def test_invalid_keys_are_slowed_down_and_valid_ones_are_not(servers: KeyedServers, way: str) -> None:
    ask = servers.ways[way]
    began = time.monotonic()
    attempts = [asyncio.create_task(ask(WRONG if n % 2 else servers.revoked)) for n in range(12)]
    await asyncio.sleep(0.5)

    assert await ask(servers.key)
    assert not await ask(None)
    between = time.monotonic() - began
    at_once = sum(attempt.done() for attempt in attempts)
    assert not any(await asyncio.gather(*attempts))

    assert at_once < len(attempts)
    assert time.monotonic() - began >= 4.5
    assert between < 4
