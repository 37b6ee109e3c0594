from __future__ import annotations

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
    """Anything else is no key."""
    assert bearer_token(header) == token


@dataclass(frozen=True, slots=True)
class Guarded:
    """A bridge that wants keys, and one key of each level."""

    http: httpx.AsyncClient
    tokens: dict[Level, str]
    keys: KeyFile

    def headers(self, level: Level) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[level]}"}


@pytest.fixture
async def guarded(running: Running, tmp_path: Path) -> AsyncIterator[Guarded]:
    keys = KeyFile(tmp_path / "keys.json")
    tokens = {level: keys.create(level.value, level)[1] for level in Level}
    async with (
        running_bridge(running.target, keys_file=keys.path) as bridge,
        http_client(bridge.url) as http,
    ):
        yield Guarded(http, tokens, keys)


@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer pg_wrong"}, {"authorization": "Basic x"}])
async def test_without_an_active_key_there_is_no_answer(guarded: Guarded, header: dict[str, str]) -> None:
    """401 on every route that generates or describes, before the body is looked at."""
    for path in (CHAT, COMPLETIONS, COMPLETIONS_STREAM):
        reply = await guarded.http.post(path, content=b"no json", headers=header)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    for path in ("/v1/models", "/v1/models/m"):
        reply = await guarded.http.get(path, headers=header)
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")


async def test_a_read_only_key_may_ask_but_not_generate(guarded: Guarded) -> None:
    """403 for generating, 200 for the models."""
    headers = guarded.headers(Level.READ_ONLY)
    for path, body in ((CHAT, chat()), (COMPLETIONS, completion()), (COMPLETIONS_STREAM, completion())):
        reply = await guarded.http.post(path, json=body, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_scope")

    assert (await guarded.http.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize("level", [Level.READ_WRITE, Level.ADMIN])
async def test_the_callers_own_key_reaches_the_service(
    guarded: Guarded, running: Running, level: Level
) -> None:
    """The service checks the same key again."""
    headers = guarded.headers(level)
    for path, body in ((CHAT, chat()), (COMPLETIONS_STREAM, completion())):
        assert (await guarded.http.post(path, json=body, headers=headers)).status_code == 200
    await guarded.http.get("/v1/models", headers=headers)

    sent = [seen.metadata["authorization"] for seen in running.service.seen]
    assert sent == [headers["authorization"]] * 3


async def test_a_revoked_key_stops_working(guarded: Guarded) -> None:
    """Without a restart, within the time a keyring takes to notice."""
    headers = guarded.headers(Level.READ_WRITE)
    assert (await guarded.http.get("/v1/models", headers=headers)).status_code == 200
    guarded.keys.revoke(Level.READ_WRITE.value)
    for _ in range(100):
        reply = await guarded.http.get("/v1/models", headers=headers)
        if reply.status_code == 401:
            break

    assert reply.status_code == 401


async def test_health_needs_no_key(guarded: Guarded) -> None:
    """Probes have none."""
    for path in ("/health", "/health/live", "/health/ready"):
        assert (await guarded.http.get(path)).status_code == 200


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
    """Without keys every header is accepted; what is no bearer token stays here."""
    headers = {} if sent is None else {"authorization": sent}
    assert (await http.post(CHAT, json=chat(), headers=headers)).status_code == 200

    assert running.service.seen[0].metadata.get("authorization") == forwarded
