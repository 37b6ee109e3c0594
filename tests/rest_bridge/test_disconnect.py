"""Disconnecting callers leave no call and no task."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from rest_bridge.errors import ClientGone
from rest_bridge.middleware import until_disconnect
from tests.rest_bridge.bodies import CHAT, COMPLETIONS, COMPLETIONS_STREAM, chat, completion
from tests.rest_bridge.running import RunningBridge
from tests.rest_bridge.wire import connect, head
from tests.support.scripted import ScriptedService, delta, eventually, started

BOUND = 5.0


async def silence(request: Any, context: Any) -> AsyncIterator[Any]:
    """A stream in the queue, without any event."""
    await asyncio.sleep(3600)
    yield started()


async def prefill(request: Any, context: Any) -> AsyncIterator[Any]:
    """A stream in the prefill: started, without output."""
    yield started()
    await asyncio.sleep(3600)


async def stall(request: Any, context: Any) -> AsyncIterator[Any]:
    """A stream that stalls after some output."""
    yield started()
    yield delta("x")
    await asyncio.sleep(3600)


async def flood(request: Any, context: Any) -> AsyncIterator[Any]:
    """A stream with endless output."""
    yield started()
    while True:
        yield delta("x" * 1000)
        await asyncio.sleep(0)


async def never(request: Any, context: Any) -> Any:
    """A call that is never answered."""
    await asyncio.sleep(3600)


@pytest.mark.parametrize("script", [silence, prefill, stall, flood])
@pytest.mark.parametrize(("path", "body"), [(CHAT, chat(stream=True)), (COMPLETIONS_STREAM, completion())])
async def test_a_disconnect_from_a_stream_cancels_the_generation(
    bridge: RunningBridge, service: ScriptedService, script: Any, path: str, body: dict[str, Any]
) -> None:
    """This holds at any moment, and no task is left."""
    service.stream = script
    async with connect(bridge.address) as wire:
        wire.post(path, body)
        await eventually(lambda: service.running == 1)
        if script in (stall, flood):
            await wire.read_until(b"data: ")
    await eventually(lambda: service.running == 0 and bridge.requests == 0, BOUND)

    assert service.cancelled == 1


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])
async def test_a_disconnect_from_a_plain_request_cancels_the_generation(
    bridge: RunningBridge, service: ScriptedService, path: str, body: dict[str, Any]
) -> None:
    """It is noticed without a failing write to the caller."""
    service.answer = never
    async with connect(bridge.address) as wire:
        wire.post(path, body)
        await eventually(lambda: service.running == 1)
    await eventually(lambda: service.running == 0 and bridge.requests == 0, BOUND)

    assert service.cancelled == 1


async def test_a_disconnect_of_a_stalled_reader_is_noticed(
    bridge: RunningBridge, service: ScriptedService
) -> None:
    """The bridge is waiting to write at that time."""
    service.stream = flood
    async with connect(bridge.address) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.post(CHAT, chat(stream=True))
        await eventually(lambda: service.running == 1)
        await asyncio.sleep(1)
    await eventually(lambda: service.running == 0 and bridge.requests == 0, BOUND)

    assert service.cancelled == 1


async def test_a_disconnect_within_the_body_ends_the_request(
    bridge: RunningBridge, service: ScriptedService
) -> None:
    """The service gets no call."""
    async with connect(bridge.address) as wire:
        wire.send(head("POST", CHAT, "content-length: 1000") + b'{"model"')
        await eventually(lambda: bridge.requests == 1)
    await eventually(lambda: bridge.requests == 0, BOUND)

    assert service.seen == []


async def test_a_disconnected_caller_is_logged_as_client_gone(
    bridge: RunningBridge, service: ScriptedService
) -> None:
    """It is logged neither as a success nor as an error."""
    service.stream = stall
    with structlog.testing.capture_logs() as logs:
        async with connect(bridge.address) as wire:
            wire.post(CHAT, chat(stream=True))
            await wire.read_until(b"data: ")
        await eventually(lambda: bridge.requests == 0, BOUND)
    lines = [(line["event"], line.get("status"), line.get("outcome")) for line in logs]

    assert lines == [("request", 499, "client_gone")]


async def test_many_simultaneous_disconnects_leave_no_task(
    bridge: RunningBridge, service: ScriptedService
) -> None:
    """The number of tasks is as before, and the next request is answered."""
    usual = service.stream
    async with connect(bridge.address) as wire:
        wire.post(CHAT, chat())
        await wire.read_reply()
        service.stream = stall
        tasks = len(asyncio.all_tasks())
        leavers = [asyncio.create_task(_leave(bridge.address)) for _ in range(50)]
        await asyncio.gather(*leavers)
        await eventually(lambda: service.running == 0 and bridge.requests == 0, BOUND)
        gc.collect()
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks, BOUND)
        service.stream = usual
        wire.post(CHAT, chat())
        status, _, _ = await wire.read_reply()

    assert status == 200
    assert service.cancelled == 50


async def _leave(address: str) -> None:
    async with connect(address) as wire:
        wire.post(CHAT, chat(stream=True))
        await wire.read_until(b"data: ")


async def _disconnect_later() -> dict[str, str]:
    await asyncio.sleep(0.05)
    return {"type": "http.disconnect"}


async def _stays() -> dict[str, str]:
    await asyncio.sleep(3600)
    return {"type": "http.disconnect"}


async def test_the_block_ends_when_the_caller_disconnects() -> None:
    """It raises its own exception, not a cancellation, and the task continues."""
    with pytest.raises(ClientGone):
        async with until_disconnect(_disconnect_later):
            await asyncio.sleep(3600)
    await asyncio.sleep(0)

    assert len(asyncio.all_tasks()) == 1


async def test_an_error_inside_the_block_is_raised() -> None:
    """The caller is still connected."""
    with pytest.raises(ZeroDivisionError):
        async with until_disconnect(_stays):
            raise ZeroDivisionError


async def test_an_outer_cancellation_of_the_block_stays_a_cancellation() -> None:
    """A shutdown of the server is not mistaken for a disconnected caller."""

    async def block() -> None:
        async with until_disconnect(_stays):
            await asyncio.sleep(3600)

    task = asyncio.create_task(block())
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
