"""Paced streams of a bridge: which events are gathered, and which never are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from rest_bridge.streaming.sse import KEEPALIVE
from tests.rest_bridge.bodies import CHAT, COMPLETIONS_STREAM, chat, completion
from tests.rest_bridge.running import RunningBridge, running_bridge
from tests.rest_bridge.wire import Wire, connect
from tests.support.scripted import Running, ScriptedService, delta, finished, script, started, summary

LONG = 10.0
"""The largest interval, in seconds, for which the bridge gathers. No test waits that long."""
WORDS = [f"w{number} " for number in range(20)]
MANY = (started(), *(delta(word) for word in WORDS), finished(), summary())


@pytest.fixture
async def slow(running: Running) -> AsyncIterator[RunningBridge]:
    async with running_bridge(
        running.target, stream_pacing="always", max_stream_interval=LONG
    ) as running_one:
        yield running_one


async def chunks(wire: Wire) -> list[bytes]:
    """The chunks in which the reply was written."""
    async with asyncio.timeout(LONG / 2):
        await wire.read_head()
        found = []
        while chunk := await wire.read_chunk():
            found.append(chunk)
        return found


async def test_gathered_events_are_one_write(slow: RunningBridge, service: ScriptedService) -> None:
    service.stream = script(*MANY)
    async with connect(slow.address) as wire:
        wire.post(COMPLETIONS_STREAM, completion())
        first, rest, end = await chunks(wire)

    assert first.count(b"data: ") == 1
    assert b'"text":"w0 "' in first
    events = rest.split(b"\n\n")[:-1]
    assert len(events) == len(WORDS), "one for each further delta, and the end of the choice"
    for word, event in zip(WORDS[1:], events[:-1], strict=True):
        assert event.startswith(b"data: {")
        assert b'"text":"%s"' % word.encode() in event
    assert b'"finish_reason":"stop"' in events[-1]
    assert end == b"data: [DONE]\n\n"


async def test_pacing_does_not_change_the_bytes_of_a_stream(
    slow: RunningBridge, bridge: RunningBridge, service: ScriptedService
) -> None:
    service.stream = script(*MANY)
    seen = []
    for one in (slow, bridge):
        async with connect(one.address) as wire:
            wire.post(COMPLETIONS_STREAM, completion())
            events = b"".join(await chunks(wire)).split(b"\n\n")
        seen.append([event.partition(b'"choices"')[2] for event in events])

    assert seen[0] == seen[1]


async def test_the_first_output_of_every_choice_is_sent_at_once(
    slow: RunningBridge, service: ScriptedService
) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        for event in (started(), delta("a"), delta("b", choice=1)):
            yield event
        await asyncio.Event().wait()

    service.stream = stream
    async with connect(slow.address) as wire:
        wire.post(CHAT, chat(stream=True, n=2))
        async with asyncio.timeout(LONG / 2):
            await wire.read_head()
            assert b'"content":"a"' in await wire.read_chunk()
            assert b'"content":"b"' in await wire.read_chunk()


async def test_gathered_events_are_sent_after_the_interval(
    running: Running, service: ScriptedService
) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        for event in (started(), delta("a"), delta("b"), delta("c")):
            yield event
        await asyncio.Event().wait()

    service.stream = stream
    async with (
        running_bridge(running.target, stream_pacing="always", max_stream_interval=0.2) as short,
        connect(short.address) as wire,
    ):
        wire.post(COMPLETIONS_STREAM, completion())
        await wire.read_head()
        first, rest = await wire.read_chunk(), await wire.read_chunk()

    assert first.count(b"data: ") == 1
    assert rest.count(b"data: ") == 2


async def test_comments_do_not_overtake_gathered_events(running: Running, service: ScriptedService) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        for event in (started(), delta("a"), delta("b")):
            yield event
        await asyncio.sleep(0.5)
        for event in (delta("c"), finished(), summary()):
            yield event

    service.stream = stream
    settings = {"stream_pacing": "always", "max_stream_interval": 0.2, "sse_keepalive": 0.05}
    async with running_bridge(running.target, **settings) as both, connect(both.address) as wire:
        wire.post(COMPLETIONS_STREAM, completion())
        found = await chunks(wire)

    events = [part for part in b"".join(found).split(b"\n\n") if part and part + b"\n\n" != KEEPALIVE]
    assert [event.partition(b'"text":"')[2][:1] for event in events[:4]] == [b"a", b"b", b"c", b'"']
    assert events[4:] == [b"data: [DONE]"]
    assert KEEPALIVE in found


async def test_an_error_comes_after_gathered_events(slow: RunningBridge, service: ScriptedService) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        for event in (started(), delta("a"), delta("b")):
            yield event
        raise RuntimeError("the engine failed")

    service.stream = stream
    async with connect(slow.address) as wire:
        wire.post(COMPLETIONS_STREAM, completion())
        first, rest = await chunks(wire)

    assert b'"text":"a"' in first
    assert rest.index(b'"text":"b"') < rest.index(b'"error"')


async def test_a_caller_may_turn_off_gathering(slow: RunningBridge, service: ScriptedService) -> None:
    service.stream = script(*MANY)
    async with connect(slow.address) as wire:
        wire.post(COMPLETIONS_STREAM, completion(), "x-stream-interval: 0")
        found = await chunks(wire)

    assert len(found) == len(WORDS) + 2
    assert float(service.seen[-1].metadata["x-stream-interval"]) == 0, (
        "the bridge sends the interval to the service"
    )


async def test_without_the_header_no_interval_is_sent_to_the_service(
    http: httpx.AsyncClient, service: ScriptedService
) -> None:
    await http.post(CHAT, json=chat())

    assert "x-stream-interval" not in service.seen[-1].metadata


@pytest.mark.parametrize("interval", ["", "-1", "11", "soon", "1e1"])
@pytest.mark.parametrize("streams", [False, True])
async def test_a_bad_interval_is_refused(http: httpx.AsyncClient, interval: str, streams: bool) -> None:
    reply = await http.post(CHAT, json=chat(stream=streams), headers={"x-stream-interval": interval})

    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["param"] == "x-stream-interval"
    assert "must be a number of seconds in [0, 10]" in error["message"]
