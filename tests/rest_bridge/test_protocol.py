from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from rest_bridge.protocol import HEAD_LIMIT
from tests.rest_bridge.bodies import CHAT, chat
from tests.rest_bridge.running import RunningBridge
from tests.rest_bridge.wire import Wire, connect, head
from tests.support.scripted import ScriptedService, eventually, whole_answer


async def refusal(wire: Wire) -> None:
    """Read the reply to an invalid request: the usual error body, an id, and a closed connection."""
    status, headers, body = await wire.read_reply()

    assert (status, body["error"]["code"]) == (400, "invalid_value")
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert headers["x-request-id"]
    assert await wire.has_ended()


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        b"BREW /health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET \xff HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: " + b"9" * 500 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /health/live HTTP/1.1\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: x\r\nHost: x\r\n\r\n",
        b"GET /health/live HTTP/1.0\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: x y\r\n\r\n",
        b"GET /health/live HTTP/2.0\r\nhost: x\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_invalid_http_is_refused(bridge: RunningBridge, raw: bytes) -> None:
    """The error has the usual body, also for TLS on the plain port."""
    async with connect(bridge.address) as wire:
        wire.send(raw)
        await refusal(wire)


@pytest.mark.parametrize(
    "start", [b"GET /", b"GET / HTTP/1.1\r\nx-long: ", b"GET / HTTP/1.1\r\n" + b"x-a: b\r\n" * 10]
)
async def test_a_head_without_end_is_refused(bridge: RunningBridge, start: bytes) -> None:
    """A request line or headers over the limit end the connection and take no memory."""
    async with connect(bridge.address) as wire:
        wire.send(start)
        for _ in range(HEAD_LIMIT // 4096):
            wire.send(b"y" * 4096)
            await asyncio.sleep(0.01)
        await refusal(wire)


async def test_a_head_below_the_limit_is_accepted(bridge: RunningBridge) -> None:
    """It arrives in pieces, and again on the same connection."""
    async with connect(bridge.address) as wire:
        for _ in range(3):
            raw = head("GET", "/health/live", "x-long: " + "y" * (HEAD_LIMIT // 2))
            for start in range(0, len(raw), 8192):
                wire.send(raw[start : start + 8192])
                await asyncio.sleep(0.005)
            assert (await wire.read_reply())[0] == 200


async def test_a_head_over_the_limit_in_one_piece_is_refused(bridge: RunningBridge) -> None:
    """It arrives at once after a valid request."""
    live = head("GET", "/health/live")
    async with connect(bridge.address) as wire:
        wire.send(live + head("GET", "/health/live", *["x-a: " + "y" * 1000] * 66))
        assert (await wire.read_reply())[0] == 200
        await refusal(wire)


async def test_trailers_without_end_are_refused(bridge: RunningBridge, service: ScriptedService) -> None:
    """The service gets no call."""
    async with connect(bridge.address) as wire:
        wire.send(head("POST", CHAT, "transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\nx-long: ")
        for _ in range(HEAD_LIMIT // 4096 + 1):
            wire.send(b"y" * 4096)
            await asyncio.sleep(0.01)
        await refusal(wire)
    assert service.seen == []


async def test_trailers_have_no_effect(bridge: RunningBridge) -> None:
    """They do not count as headers: the request id is unchanged."""
    async with connect(bridge.address) as wire:
        start = head("POST", CHAT, "transfer-encoding: chunked", "x-request-id: mine")
        content = json.dumps(chat()).encode()
        wire.send(start + b"%x\r\n%b\r\n0\r\nx-request-id: other\r\n\r\n" % (len(content), content))
        status, headers, _ = await wire.read_reply()

    assert (status, headers["x-request-id"]) == (200, "mine")


@pytest.mark.parametrize(
    ("behind", "status"),
    [
        (head("GET", "/health/live", "x-long: " + "y" * (HEAD_LIMIT // 2)), 200),
        (head("GET", "/health/live", "x-long: " + "y" * HEAD_LIMIT), 400),
        (b"GET /health/live HTTP/1.1\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
    ],
)
async def test_pipelined_data_does_not_affect_a_running_request(
    bridge: RunningBridge, service: ScriptedService, behind: bytes, status: int
) -> None:
    """A large body and the next head arrive together, and both requests are answered in order."""
    go = asyncio.Event()

    async def answer(request: Any, context: Any) -> Any:
        await go.wait()
        return whole_answer()

    service.answer = answer
    async with connect(bridge.address) as wire:
        content = json.dumps(chat(messages=[{"role": "user", "content": "x" * 3 * HEAD_LIMIT}])).encode()
        wire.send(head("POST", CHAT, f"content-length: {len(content)}") + content + behind)
        await eventually(lambda: service.running == 1)
        go.set()
        first, second = await wire.read_reply(), await wire.read_reply()

    assert (first[0], first[2]["choices"][0]["message"]["content"]) == (200, "Hello")
    assert second[0] == status


async def test_many_requests_at_once_are_answered_in_order(bridge: RunningBridge) -> None:
    """They arrive in one piece, and most of them wait in the buffer."""
    async with connect(bridge.address) as wire:
        wire.send(b"".join(head("GET", "/health/live", f"x-request-id: r{i}") for i in range(500)))
        ids = [(await wire.read_reply())[1]["x-request-id"] for _ in range(500)]

    assert ids == [f"r{i}" for i in range(500)]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_http_1_0_client_gets_no_chunked_reply(bridge: RunningBridge, stream: bool) -> None:
    """The reply is plain and ends with the connection."""
    content = json.dumps(chat(stream=stream)).encode()
    async with connect(bridge.address) as wire:
        wire.send(
            b"POST %b HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(content), content)
        )
        status, headers = await wire.read_head()
        body = b""
        while piece := await wire.read_some():
            body += piece

    assert (status, headers["connection"]) == (200, "close")
    assert "transfer-encoding" not in headers
    if stream:
        assert ("content-length" in headers, body[:6], body[-14:]) == (False, b"data: ", b"data: [DONE]\n\n")
    else:
        assert (int(headers["content-length"]), b"Hello" in body) == (len(body), True)


async def test_an_offer_to_upgrade_is_declined_in_any_form(bridge: RunningBridge) -> None:
    """It arrives in pieces, and with a body in pieces."""
    content = json.dumps(chat()).encode()
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA")
    raw = head("POST", CHAT, f"content-length: {len(content)}", *offer) + content
    async with connect(bridge.address) as wire:
        for size in (1, 7, 100, len(raw)):
            for start in range(0, len(raw), size):
                wire.send(raw[start : start + size])
                await asyncio.sleep(0.001)
            status, headers, body = await wire.read_reply()

            assert (status, body["choices"][0]["message"]["content"]) == (200, "Hello")
            assert "connection" not in headers


async def test_an_offer_to_upgrade_is_declined(bridge: RunningBridge) -> None:
    """Clients that offer HTTP/2 are answered over HTTP/1.1, also repeatedly."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA")
    async with connect(bridge.address) as wire:
        for headers in (offer, (), offer):
            wire.post(CHAT, chat(), *headers)
            status, _, body = await wire.read_reply()

            assert status == 200
            assert body["choices"][0]["message"]["content"] == "Hello"
