"""A key file that is damaged while the servers run is the operator's error; callers are not affected."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from lodestream_common.keys import KeyFile
from tests.support.service import MODEL_ID
from tests.support.transports import running_transports

DAMAGED = {
    "deep": b"[" * 200_000,
    "deep object": b'{"a":' * 200_000,
    "long number": b'{"version": 1' + b"0" * 100_000 + b', "keys": []}',
    "binary": bytes(range(256)) * 100,
    "nul": b"\0" * 10_000,
}


@pytest.mark.parametrize("kind", DAMAGED)
async def test_a_damaged_key_file_does_not_affect_callers(tmp_path: Path, kind: str) -> None:
    """The known keys stay valid, and each server logs one error. A deeply nested file once caused a 500."""
    path = tmp_path / "keys.json"
    _, token = KeyFile(path).create("alice")
    with capture_logs() as logs:
        async with running_transports(keys_file=path) as transports:
            path.write_bytes(DAMAGED[kind])
            for _ in range(10):
                await asyncio.sleep(0.1)
                reply = await _ask(transports.http, token)
                assert reply.status_code == 200, reply.text
                assert (await _ask(transports.http, "pg_" + "a" * 40)).status_code == 401
                await transports.client.list_models(api_key=token)

    errors = [line for line in logs if line["log_level"] == "error"]
    assert [line["event"] for line in errors] == ["keys_unusable"] * 2
    assert all(str(path) in line["reason"] and len(line["reason"]) < 1000 for line in errors)
    assert not any("exc_info" in line for line in logs)


async def _ask(http: httpx.AsyncClient, token: str) -> httpx.Response:
    body = {"model": MODEL_ID, "prompt": "Hello", "max_tokens": 1}
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    return await http.post("/v1/completions", content=json.dumps(body), headers=headers)
