"""Whoever tries keys is slowed down on both transports; others at the same address notice nothing."""

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
"""Asks for the models with a key; whether it was let in."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A guarded pair of servers."""

    ways: dict[str, Ask]
    key: str
    revoked: str


@pytest_asyncio.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
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

        yield Asked({"grpc": by_grpc, "rest": by_rest}, key, revoked)


@pytest.mark.parametrize("way", ["grpc", "rest"])
async def test_failed_keys_are_slowed_down_and_good_ones_are_not(asked: Asked, way: str) -> None:
    ask = asked.ways[way]
    began = time.monotonic()
    attempts = [asyncio.create_task(ask(WRONG if n % 2 else asked.revoked)) for n in range(12)]
    await asyncio.sleep(0.5)

    assert await ask(asked.key)
    assert not await ask(None)
    between = time.monotonic() - began
    at_once = sum(attempt.done() for attempt in attempts)
    assert not any(await asyncio.gather(*attempts))

    assert at_once < len(attempts)
    assert time.monotonic() - began >= 4.5
    assert between < 4
