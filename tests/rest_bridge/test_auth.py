from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from lodestream_common.failed_keys import bearer_token
from lodestream_common.keys import KeyFile, Level
from tests.rest_bridge.bodies import CHAT, COMPLETIONS, COMPLETIONS_STREAM, chat, completion
from tests.rest_bridge.running import http_client, running_bridge
from tests.support.scripted import Running


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer pg_abc", "pg_abc"),
        ("bearer   pg_abc ", "pg_abc"),
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic dXNlcg==", None),
        ("pg_abc", None),
        ("Bearer a b", None),
        ("Bearer é", None),
        ("Bearer " + "x" * 5000, None),
    ],
)
def test_a_key_comes_as_a_bearer_token(header: str | None, token: str | None) -> None:
    """Other headers are no key."""
    assert bearer_token(header) == token


@dataclass(frozen=True, slots=True)
class KeyedBridge:
    """A bridge that requires keys, and one key of each level."""

    http: httpx.AsyncClient
    tokens: dict[Level, str]
    keys: KeyFile

    def headers(self, level: Level) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[level]}"}


@pytest.fixture
async def keyed(running: Running, tmp_path: Path) -> AsyncIterator[KeyedBridge]:
    keys = KeyFile(tmp_path / "keys.json")
    tokens = {level: keys.create(level.value, level)[1] for level in Level}
    async with (
        running_bridge(running.target, keys_file=keys.path) as bridge,
        http_client(bridge.url) as http,
    ):
        yield KeyedBridge(http, tokens, keys)


@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer pg_wrong"}, {"authorization": "Basic x"}])
async def test_without_an_active_key_every_route_refuses(keyed: KeyedBridge, header: dict[str, str]) -> None:
    """The status is 401 on every route that generates or describes, before the body is parsed."""
    for path in (CHAT, COMPLETIONS, COMPLETIONS_STREAM):
        reply = await keyed.http.post(path, content=b"no json", headers=header)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    for path in ("/v1/models", "/v1/models/m"):
        reply = await keyed.http.get(path, headers=header)
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")


async def test_a_read_only_key_may_list_models_but_not_generate(keyed: KeyedBridge) -> None:
    """The status is 403 for a generation and 200 for the models."""
    headers = keyed.headers(Level.READ_ONLY)
    for path, body in ((CHAT, chat()), (COMPLETIONS, completion()), (COMPLETIONS_STREAM, completion())):
        reply = await keyed.http.post(path, json=body, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_scope")

    assert (await keyed.http.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize("level", [Level.READ_WRITE, Level.ADMIN])
async def test_the_callers_own_key_reaches_the_service(
    keyed: KeyedBridge, running: Running, level: Level
) -> None:
    """The service checks the same key again."""
    headers = keyed.headers(level)
    for path, body in ((CHAT, chat()), (COMPLETIONS_STREAM, completion())):
        assert (await keyed.http.post(path, json=body, headers=headers)).status_code == 200
    await keyed.http.get("/v1/models", headers=headers)

    sent = [seen.metadata["authorization"] for seen in running.service.seen]
    assert sent == [headers["authorization"]] * 3


async def test_a_revoked_key_stops_working(keyed: KeyedBridge) -> None:
    """It stops without a restart, within the check interval of the keyring."""
    headers = keyed.headers(Level.READ_WRITE)
    assert (await keyed.http.get("/v1/models", headers=headers)).status_code == 200
    keyed.keys.revoke(Level.READ_WRITE.value)
    status = 200
    async with asyncio.timeout(10):
        while status == 200:
            await asyncio.sleep(0.02)
            status = (await keyed.http.get("/v1/models", headers=headers)).status_code

    assert status == 401


async def test_health_needs_no_key(keyed: KeyedBridge) -> None:
    """Probes need no key."""
    for path in ("/health", "/health/live", "/health/ready"):
        assert (await keyed.http.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        ("Bearer anything", "Bearer anything"),
        ("Bearer", None),
        ("Basic dXNlcg==", None),
        (None, None),
    ],
)
async def test_an_open_bridge_forwards_bearer_tokens_only(
    http: httpx.AsyncClient, running: Running, sent: str | None, forwarded: str | None
) -> None:
    """Without keys every header is accepted, but only bearer tokens are forwarded."""
    headers = {} if sent is None else {"authorization": sent}
    assert (await http.post(CHAT, json=chat(), headers=headers)).status_code == 200

    assert running.service.seen[0].metadata.get("authorization") == forwarded
