from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import structlog

from rest_bridge.streaming.sse import KEEPALIVE
from tests.rest_bridge.bodies import CHAT, COMPLETIONS_STREAM, chat, completion
from tests.rest_bridge.running import RunningBridge, http_client, running_bridge
from tests.rest_bridge.wire import connect
from tests.support.scripted import (
    HELLO,
    Running,
    ScriptedService,
    delta,
    error_info,
    eventually,
    finished,
    refuse,
    started,
    summary,
)


class Gate:
    """A stream that continues when the test opens the gate."""

    def __init__(self, *parts: tuple[Any, ...]) -> None:
        self._parts = parts
        self._open = asyncio.Semaphore(0)

    def open(self) -> None:
        self._open.release()

    async def __call__(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for part in self._parts:
            await self._open.acquire()
            for event in part:
                yield event


async def test_the_exact_bytes_of_a_stream(bridge: RunningBridge) -> None:
    """They are headers, role, text, end, and [DONE], with nothing after it."""
    async with connect(bridge.address) as wire:
        wire.post(CHAT, chat(stream=True), "x-request-id: abc")
        status, headers = await wire.read_head()
        body = b""
        while chunk := await wire.read_chunk():
            body += chunk
        wire.post(CHAT, chat())
        second, _, _ = await wire.read_reply()

    assert status == 200
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"] == "abc"
    assert "content-length" not in headers
    events = body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert second == 200, "the connection can be used again"


async def test_a_silent_stream_is_kept_alive_before_its_first_output(
    running: Running, service: ScriptedService
) -> None:
    """After the keep-alive interval the status is sent, and then a comment for each interval."""
    gate = Gate((HELLO[0],), HELLO[1:])
    service.stream = gate
    async with running_bridge(running.target, sse_keepalive=0.2) as bridge, connect(bridge.address) as wire:
        wire.post(CHAT, chat(stream=True))
        status, headers = await wire.read_head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert await wire.read_chunk() == KEEPALIVE
        gate.open()
        assert await wire.read_chunk() == KEEPALIVE
        gate.open()
        body = b""
        while chunk := await wire.read_chunk():
            body += chunk

    events = [event for event in body.decode().split("\n\n") if event.startswith("data: ")]
    assert json.loads(events[0].removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1] == "data: [DONE]"


async def test_a_failure_after_a_silence_is_an_event(running: Running, service: ScriptedService) -> None:
    """The status is already 200, but the log has the code of the error."""
    go = asyncio.Event()

    async def fail(request: Any, context: Any) -> AsyncIterator[Any]:
        yield HELLO[0]
        await go.wait()
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "It is going.", error_info("NOT_READY"))

    service.stream = fail
    async with (
        running_bridge(running.target, sse_keepalive=0.2, retry_timeout=0.3) as bridge,
        connect(bridge.address) as wire,
    ):
        with structlog.testing.capture_logs() as logs:
            wire.post(CHAT, chat(stream=True))
            assert (await wire.read_head())[0] == 200
            assert await wire.read_chunk() == KEEPALIVE
            go.set()
            body = b""
            while chunk := await wire.read_chunk():
                body += chunk
            await eventually(lambda: bridge.requests == 0)
        events = [event for event in body.decode().split("\n\n") if event.startswith("data: ")]

    assert [json.loads(event.removeprefix("data: "))["error"]["code"] for event in events] == ["not_ready"]
    assert [(line["status"], line["outcome"]) for line in logs if line["event"] == "request"] == [
        (200, "not_ready")
    ]


async def test_nothing_is_sent_before_the_first_output(
    bridge: RunningBridge, service: ScriptedService
) -> None:
    """The headers are sent together with the first event after `started`."""
    gate = Gate((HELLO[0],), HELLO[1:])
    service.stream = gate
    async with connect(bridge.address) as wire:
        wire.post(CHAT, chat(stream=True))
        gate.open()
        await eventually(lambda: service.running == 1)
        await asyncio.sleep(0.2)
        early = wire.reader._buffer  # type: ignore[attr-defined]
        assert not early
        gate.open()
        await wire.read_head()
        first = await wire.read_chunk()

    assert b'"role":"assistant"' in first
    assert b'"content":"Hel"' in first


async def test_events_are_sent_at_once(bridge: RunningBridge, service: ScriptedService) -> None:
    """The caller gets a delta before the next one is generated."""
    gate = Gate(HELLO[:2], HELLO[2:3], HELLO[3:])
    service.stream = gate
    async with connect(bridge.address) as wire:
        wire.post(COMPLETIONS_STREAM, completion())
        gate.open()
        await wire.read_head()
        assert b'"text":"Hel"' in await wire.read_chunk()
        gate.open()
        assert b'"text":"lo"' in await wire.read_chunk()
        gate.open()
        assert b'"finish_reason":"stop"' in await wire.read_chunk()
        assert await wire.read_chunk() == b"data: [DONE]\n\n"


async def test_a_silent_stream_is_kept_alive(running: Running) -> None:
    """A comment line is sent for every silent interval."""
    gate = Gate(HELLO[:2], HELLO[2:])
    running.service.stream = gate
    async with running_bridge(running.target, sse_keepalive=0.2) as bridge, connect(bridge.address) as wire:
        wire.post(CHAT, chat(stream=True))
        gate.open()
        await wire.read_head()
        await wire.read_chunk()
        comments = [await wire.read_chunk() for _ in range(3)]
        gate.open()
        rest = b""
        while chunk := await wire.read_chunk():
            rest += chunk

    assert comments == [KEEPALIVE] * 3
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_a_stream_with_steady_output_has_no_comments(running: Running) -> None:
    """The length of the stream does not matter."""

    async def talk(request: Any, context: Any) -> AsyncIterator[Any]:
        yield started()
        for _ in range(20):
            yield delta("x")
            await asyncio.sleep(0.05)
        yield finished()
        yield summary()

    running.service.stream = talk
    async with (
        running_bridge(running.target, sse_keepalive=0.5) as bridge,
        http_client(bridge.url) as http,
    ):
        reply = await http.post(CHAT, json=chat(stream=True))

    assert KEEPALIVE.decode() not in reply.text
    assert reply.text.count('"content":"x"') == 20


async def test_usage_is_in_a_chunk_of_its_own(http: httpx.AsyncClient) -> None:
    """It is sent on request, before [DONE]."""
    reply = await http.post(CHAT, json=chat(stream=True, stream_options={"include_usage": True}))
    events = [line for line in reply.text.split("\n\n") if line]
    last = json.loads(events[-2].removeprefix("data: "))

    assert last["choices"] == []
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert "usage" not in (await http.post(CHAT, json=chat(stream=True))).text


async def test_a_reader_that_does_not_read_slows_the_service(
    bridge: RunningBridge, service: ScriptedService
) -> None:
    """The bridge stops reading from the service after a bounded number of bytes."""
    sent = 0

    async def flood(request: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal sent
        yield started()
        while True:
            yield delta("x" * 10_000)
            sent += 10_000

    service.stream = flood
    async with connect(bridge.address) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.post(CHAT, chat(stream=True))
        await eventually(lambda: sent > 0)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.5)
        stopped = sent
        wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
        while sent == stopped:
            assert await wire.read_some()

    assert stopped < 32 * 1024 * 1024
    await eventually(lambda: service.running == 0)


async def test_a_slow_reader_does_not_delay_others(bridge: RunningBridge, service: ScriptedService) -> None:
    """A request of another caller on the same connection to the service is answered at once."""

    async def flood(request: Any, context: Any) -> AsyncIterator[Any]:
        yield started()
        while True:
            yield delta("x" * 10_000)

    async with connect(bridge.address) as wire, http_client(bridge.url) as http:
        usual, service.stream = service.stream, flood
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.post(CHAT, chat(stream=True))
        await asyncio.sleep(1)
        service.stream = usual

        assert (await http.post(CHAT, json=chat())).status_code == 200
