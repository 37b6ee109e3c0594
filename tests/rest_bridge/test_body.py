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
    """A connection to a bridge that accepts bodies of at most `LIMIT` bytes."""
    async with (
        running_bridge(running.target, max_body_bytes=LIMIT) as bridge,
        connect(bridge.address) as wire,
    ):
        yield wire


def padded(size: int) -> bytes:
    """A valid chat request of exactly `size` bytes."""
    bare = len(json.dumps(chat(user="")).encode())
    return json.dumps(chat(user="x" * (size - bare))).encode()


async def test_a_body_at_the_limit_is_accepted(wire: Wire) -> None:
    """The limit is exact to the byte."""
    wire.send(head("POST", CHAT, f"content-length: {LIMIT}") + padded(LIMIT))
    status, _, _ = await wire.read_reply()

    assert status == 200


async def test_a_declared_size_over_the_limit_is_refused_at_once(wire: Wire) -> None:
    """The reply comes before any byte of the body, and the message has the limit."""
    wire.send(head("POST", CHAT, f"content-length: {LIMIT + 1}"))
    status, headers, body = await wire.read_reply()

    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert str(LIMIT) in body["error"]["message"]
    assert headers["x-request-id"]


async def test_a_body_of_unknown_size_is_refused_while_it_arrives(wire: Wire) -> None:
    """It is refused as soon as it exceeds the limit, before its end."""
    wire.send(head("POST", CHAT, "transfer-encoding: chunked"))
    piece = b"%x\r\n%s\r\n" % (1024, b"x" * 1024)
    wire.send(piece * 2)
    await asyncio.sleep(0.1)
    assert not wire.reader._buffer  # type: ignore[attr-defined]
    wire.send(piece)
    status, _, body = await wire.read_reply()

    assert (status, body["error"]["code"]) == (413, "request_too_large")


async def test_a_client_may_finish_a_refused_upload(running: Running) -> None:
    """A client that sends the whole body before it reads gets the error."""
    async with (
        running_bridge(running.target) as bridge,
        http_client(bridge.url) as http,
    ):
        reply = await http.post(CHAT, content=b" " * (32 * 1024 * 1024))
        second = await http.post(CHAT, json=chat())

    assert reply.status_code == 413
    assert second.status_code == 200


async def test_expect_100_continue_is_answered(wire: Wire) -> None:
    """The reply comes before the body: 100, or the error."""
    wire.send(head("POST", CHAT, "content-length: 200", "expect: 100-continue"))
    assert (await wire.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    wire.send(padded(200))
    assert (await wire.read_reply())[0] == 200
    wire.send(head("POST", CHAT, "content-length: 99999", "expect: 100-continue"))

    assert (await wire.read_reply())[0] == 413


async def test_a_body_may_come_in_pieces(wire: Wire) -> None:
    """It may be cut anywhere."""
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
async def test_json_is_accepted_with_any_content_type(
    http: httpx.AsyncClient, content_type: str | None
) -> None:
    """OpenAI's servers accept it, too: `curl -d` declares JSON as a form."""
    headers = {} if content_type is None else {"content-type": content_type}
    reply = await http.post(CHAT, content=json.dumps(chat()), headers=headers)

    assert reply.status_code == 200


@pytest.mark.parametrize("form", [{"data": {"model": "m"}}, {"files": {"file": b"{}"}}])
async def test_a_form_body_is_refused(http: httpx.AsyncClient, form: dict[str, Any]) -> None:
    """The content decides, and the error says what was expected."""
    reply = await http.post(CHAT, **form)

    assert reply.status_code == 400
    assert "not valid JSON" in reply.json()["error"]["message"]


async def test_the_connection_stays_open_after_errors(bridge: RunningBridge) -> None:
    """Invalid requests are followed by a valid one on the same connection."""
    async with connect(bridge.address) as wire:
        for raw in (b"{", b"[]", b"\xff"):
            wire.send(head("POST", CHAT, f"content-length: {len(raw)}") + raw)
            assert (await wire.read_reply())[0] == 400
        wire.post(CHAT, chat())

        assert (await wire.read_reply())[0] == 200
