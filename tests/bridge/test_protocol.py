from __future__ import annotations

import asyncio

import pytest

from rest_bridge.protocol import HEAD_LIMIT
from tests.bridge.bodies import CHAT, chat
from tests.bridge.running import RunningBridge
from tests.bridge.wire import Wire, connect, head


async def refusal(wire: Wire) -> None:
    """The reply to what is no request: the one error body, an id, and a closed connection."""
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
    ],
)
async def test_what_is_no_http_is_refused(bridge: RunningBridge, raw: bytes) -> None:
    """In the same words as everything else; TLS on the plain port included."""
    async with connect(bridge.address) as wire:
        wire.send(raw)
        await refusal(wire)


@pytest.mark.parametrize(
    "start", [b"GET /", b"GET / HTTP/1.1\r\nx-long: ", b"GET / HTTP/1.1\r\n" + b"x-a: b\r\n" * 10]
)
async def test_a_head_without_end_is_refused(bridge: RunningBridge, start: bytes) -> None:
    """A request line or headers over the limit end the connection, and take no memory."""
    async with connect(bridge.address) as wire:
        wire.send(start)
        for _ in range(HEAD_LIMIT // 4096):
            wire.send(b"y" * 4096)
            await asyncio.sleep(0.01)
        await refusal(wire)


async def test_a_head_below_the_limit_is_taken(bridge: RunningBridge) -> None:
    """In pieces, and again on the same connection."""
    async with connect(bridge.address) as wire:
        for _ in range(3):
            raw = head("GET", "/health/live", "x-long: " + "y" * (HEAD_LIMIT // 2))
            for start in range(0, len(raw), 8192):
                wire.send(raw[start : start + 8192])
                await asyncio.sleep(0.005)
            assert (await wire.read_reply())[0] == 200


async def test_an_offer_to_upgrade_is_not_taken(bridge: RunningBridge) -> None:
    """Clients that would rather speak HTTP/2 are answered as if they had not asked, again and again."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA")
    async with connect(bridge.address) as wire:
        for headers in (offer, (), offer):
            wire.post(CHAT, chat(), *headers)
            status, _, body = await wire.read_reply()

            assert status == 200
            assert body["choices"][0]["message"]["content"] == "Hello"
