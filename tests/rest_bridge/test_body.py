from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.rest_bridge.bodies import CHAT, chat
from tests.rest_bridge.running import RunningBridge, http_client, running_bridge
from tests.rest_bridge.wire import Wire, connect, head
from tests.support.scripted import Running

LIMIT = 2048


@pytest.fixture
async def wire(running: Running) -> AsyncIterator[Wire]:
    """A connection to a bridge that takes bodies of at most `LIMIT` bytes."""
    async with (
        running_bridge(running.target, max_body_bytes=LIMIT) as bridge,
        connect(bridge.address) as wire,
    ):
        yield wire


def padded(size: int) -> bytes:
    """A good chat request of exactly so many bytes."""
    bare = len(json.dumps(chat(user="")).encode())
    return json.dumps(chat(user="x" * (size - bare))).encode()


async def test_a_body_at_the_limit_is_taken(wire: Wire) -> None:
    """To the byte."""
    wire.send(head("POST", CHAT, f"content-length: {LIMIT}") + padded(LIMIT))
    status, _, _ = await wire.read_reply()

    assert status == 200


async def test_a_declared_size_over_the_limit_is_refused_at_once(wire: Wire) -> None:
    """Before a byte of the body; the message tells the limit."""
    wire.send(head("POST", CHAT, f"content-length: {LIMIT + 1}"))
    status, headers, body = await wire.read_reply()

    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert str(LIMIT) in body["error"]["message"]
    assert headers["x-request-id"]


async def test_a_body_of_unknown_size_is_refused_while_it_arrives(wire: Wire) -> None:
    """As soon as it is over the limit, though its end is not in sight."""
    wire.send(head("POST", CHAT, "transfer-encoding: chunked"))
    piece = b"%x\r\n%s\r\n" % (1024, b"x" * 1024)
    wire.send(piece * 2)
    await asyncio.sleep(0.1)
    assert not wire.reader._buffer  # type: ignore[attr-defined]
    wire.send(piece)
    status, _, body = await wire.read_reply()

    assert (status, body["error"]["code"]) == (413, "request_too_large")


async def test_a_refused_upload_can_be_finished(running: Running) -> None:
    """A client that sends all of it before it reads gets to see the refusal."""
    async with (
        running_bridge(running.target) as bridge,
        http_client(bridge.url) as http,
    ):
        reply = await http.post(CHAT, content=b" " * (32 * 1024 * 1024))
        second = await http.post(CHAT, json=chat())

    assert reply.status_code == 413
    assert second.status_code == 200


async def test_a_client_that_asks_first_is_told_to_go_on(wire: Wire) -> None:
    """`Expect: 100-continue` is answered before the body, and a refusal instead of it."""
    wire.send(head("POST", CHAT, "content-length: 200", "expect: 100-continue"))
    assert (await wire.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    wire.send(padded(200))
    assert (await wire.read_reply())[0] == 200
    wire.send(head("POST", CHAT, "content-length: 99999", "expect: 100-continue"))

    assert (await wire.read_reply())[0] == 413


async def test_a_body_may_come_in_pieces(wire: Wire) -> None:
    """Cut anywhere."""
    wire.send(head("POST", CHAT, "transfer-encoding: chunked"))
    for byte in padded(300):
        wire.send(b"1\r\n%c\r\n" % byte)
        await asyncio.sleep(0)
    wire.send(b"0\r\n\r\n")

    assert (await wire.read_reply())[0] == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/x-www-form-urlencoded",
        "text/plain",
        "nonsense",
        "",
        None,
    ],
)
async def test_json_is_taken_under_any_name(http: httpx.AsyncClient, content_type: str | None) -> None:
    """As OpenAI's servers do it: `curl -d` calls JSON a form."""
    headers = {} if content_type is None else {"content-type": content_type}
    reply = await http.post(CHAT, content=json.dumps(chat()), headers=headers)

    assert reply.status_code == 200


@pytest.mark.parametrize("form", [{"data": {"model": "m"}}, {"files": {"file": b"{}"}}])
async def test_a_form_is_no_json(http: httpx.AsyncClient, form: dict[str, Any]) -> None:
    """What is in it decides, and the refusal says what was expected."""
    reply = await http.post(CHAT, **form)

    assert reply.status_code == 400
    assert "not valid JSON" in reply.json()["error"]["message"]


async def test_the_connection_survives_a_refusal(bridge: RunningBridge) -> None:
    """Bad requests, one after the other, and a good one at the end."""
    async with connect(bridge.address) as wire:
        for raw in (b"{", b"[]", b"\xff"):
            wire.send(head("POST", CHAT, f"content-length: {len(raw)}") + raw)
            assert (await wire.read_reply())[0] == 400
        wire.post(CHAT, chat())

        assert (await wire.read_reply())[0] == 200
