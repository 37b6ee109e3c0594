"""A key is revoked while its streams are open. Before, the streams ran to their end."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from inference_client import AuthenticationError
from lodestream_common.keys import KeyFile
from rest_bridge.config import BridgeConfig
from tests.support.answers import Answer
from tests.support.keyed_servers import KeyedServers, keyed_servers
from tests.support.messages import grpc_request
from tests.support.service import running_service
from tests.support.transports import Callers, serving_bridge
from tests.transports.feature_requests import completion

LONG = completion(max_tokens=4000, ignore_eos=True)
SLOW: dict[str, Any] = {"simulated_decode_tps": 100}
TIMEOUT_SECONDS = 5.0
"""The servers promise one second; the rest allows for a busy machine."""


async def _revoke(served: KeyedServers, task: asyncio.Task[Any]) -> float:
    """Let a call run for a second, and revoke its key. Return the seconds that the call still ran."""
    await asyncio.sleep(1.0)
    assert not task.done(), task
    served.keys.revoke("caller")
    began = time.monotonic()
    await asyncio.wait({task}, timeout=TIMEOUT_SECONDS)
    assert task.done(), "the call goes on"
    return time.monotonic() - began


async def test_a_grpc_stream_of_a_revoked_key_ends_as_unauthenticated(tmp_path: Path) -> None:
    async with keyed_servers(tmp_path, "caller", "other", **SLOW) as served:
        caller, other = served.callers["caller"], served.callers["other"]
        stream = served.transports.client.stream_request(grpc_request(LONG), api_key=caller.key)
        untouched = asyncio.create_task(other.by_grpc(completion(max_tokens=300, ignore_eos=True)))
        collecting = asyncio.create_task(stream.collect())
        await _revoke(served, collecting)

        with pytest.raises(AuthenticationError) as ended:
            await collecting
        assert (await untouched).error is None
        assert served.transports.service.loaded.backend.stats().running == 0
    assert isinstance(ended.value.__cause__, grpc.RpcError)
    assert ended.value.code == "invalid_api_key"


async def test_whole_answers_for_a_revoked_key_are_errors(tmp_path: Path) -> None:
    """Both transports return the error of an invalid key."""
    for ask in ("by_grpc", "by_rest"):
        directory = tmp_path / ask
        directory.mkdir()
        async with keyed_servers(directory, "caller", **SLOW) as served:
            asking = asyncio.create_task(getattr(served.callers["caller"], ask)(LONG))
            await _revoke(served, asking)
            answer: Answer = asking.result()
            assert answer.error == "invalid_api_key"


async def _last_event(callers: Callers) -> Any:
    """The last event of a stream over REST."""
    headers = {"authorization": f"Bearer {callers.key}"}
    async with callers.http.stream(
        "POST", "/v1/completions", json={**LONG, "stream": True}, headers=headers
    ) as reply:
        lines = [line async for line in reply.aiter_lines() if line]
    return json.loads(lines[-1].removeprefix("data: "))


async def test_a_rest_stream_of_a_revoked_key_ends_with_an_error_event(tmp_path: Path) -> None:
    async with keyed_servers(tmp_path, "caller", **SLOW) as served:
        reading = asyncio.create_task(_last_event(served.callers["caller"]))
        await _revoke(served, reading)

    assert reading.result()["error"]["code"] == "invalid_api_key"


async def test_the_bridge_ends_streams_of_its_own_revoked_keys(tmp_path: Path) -> None:
    """The bridge has its own key file, and the service has none."""
    keys = KeyFile(tmp_path / "keys.json")
    _, token = keys.create("caller")
    async with running_service(**SLOW) as service:
        config = BridgeConfig(grpc_address=service.address, keys_file=keys.path)
        async with serving_bridge(config) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
            reading = asyncio.create_task(_last_event(Callers(None, http, key=token)))  # type: ignore[arg-type]
            await asyncio.sleep(1.0)
            keys.revoke("caller")
            event = await asyncio.wait_for(reading, TIMEOUT_SECONDS)
            assert event["error"]["code"] == "invalid_api_key"
        await asyncio.sleep(0.5)
        assert service.loaded.backend.stats().running == 0
