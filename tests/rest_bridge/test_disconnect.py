"""Callers that leave, and what is left of them: nothing."""

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
    """A stream in its queue: not even started."""
    await asyncio.sleep(3600)
    yield started()


async def prefill(request: Any, context: Any) -> AsyncIterator[Any]:
    """A stream in its prefill: started, without output."""
    yield started()
    await asyncio.sleep(3600)


async def stall(request: Any, context: Any) -> AsyncIterator[Any]:
    """A stream that fell silent after some output."""
    yield started()
    yield delta("x")
    await asyncio.sleep(3600)


async def flood(request: Any, context: Any) -> AsyncIterator[Any]:
    """A stream that talks without end."""
    yield started()
    while True:
        yield delta("x" * 1000)
        await asyncio.sleep(0)


async def never(request: Any, context: Any) -> Any:
    """A plain call that is not answered."""
    await asyncio.sleep(3600)


@pytest.mark.parametrize("script", [silence, prefill, stall, flood])
@pytest.mark.parametrize(("path", "body"), [(CHAT, chat(stream=True)), (COMPLETIONS_STREAM, completion())])
async def test_leaving_a_stream_cancels_the_generation(
    bridge: RunningBridge, service: ScriptedService, script: Any, path: str, body: dict[str, Any]
) -> None:
    """At any moment of it, and no task stays behind."""
    service.stream = script
    async with connect(bridge.address) as wire:
        wire.post(path, body)
        await eventually(lambda: service.running == 1)
        if script in (stall, flood):
            await wire.read_until(b"data: ")
    await eventually(lambda: service.running == 0 and bridge.requests == 0, BOUND)

    assert service.cancelled == 1


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, completion())])
async def test_leaving_a_plain_request_cancels_the_generation(
    bridge: RunningBridge, service: ScriptedService, path: str, body: dict[str, Any]
) -> None:
    """Though nothing is written to the caller that could fail."""
    service.answer = never
    async with connect(bridge.address) as wire:
        wire.post(path, body)
        await eventually(lambda: service.running == 1)
    await eventually(lambda: service.running == 0 and bridge.requests == 0, BOUND)

    assert service.cancelled == 1


async def test_a_reader_that_does_not_read_can_still_leave(
    bridge: RunningBridge, service: ScriptedService
) -> None:
    """Also while the bridge waits to write."""
    service.stream = flood
    async with connect(bridge.address) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.post(CHAT, chat(stream=True))
        await eventually(lambda: service.running == 1)
        await asyncio.sleep(1)
    await eventually(lambda: service.running == 0 and bridge.requests == 0, BOUND)

    assert service.cancelled == 1


async def test_leaving_amid_the_body_ends_the_request(
    bridge: RunningBridge, service: ScriptedService
) -> None:
    """Nothing is asked of the service."""
    async with connect(bridge.address) as wire:
        wire.send(head("POST", CHAT, "content-length: 1000") + b'{"model"')
        await eventually(lambda: bridge.requests == 1)
    await eventually(lambda: bridge.requests == 0, BOUND)

    assert service.seen == []


async def test_who_left_is_logged_as_gone(bridge: RunningBridge, service: ScriptedService) -> None:
    """Neither as a success nor as an error."""
    service.stream = stall
    with structlog.testing.capture_logs() as logs:
        async with connect(bridge.address) as wire:
            wire.post(CHAT, chat(stream=True))
            await wire.read_until(b"data: ")
        await eventually(lambda: bridge.requests == 0, BOUND)
    lines = [(line["event"], line.get("status"), line.get("outcome")) for line in logs]

    assert lines == [("request", 499, "client_gone")]


async def test_many_leave_at_once_and_nothing_stays(bridge: RunningBridge, service: ScriptedService) -> None:
    """As many tasks as before, and the next request is answered."""
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


async def test_the_block_ends_when_the_caller_leaves() -> None:
    """As an event of its own, not as a cancellation; the task goes on."""
    with pytest.raises(ClientGone):
        async with until_disconnect(_disconnect_later):
            await asyncio.sleep(3600)
    await asyncio.sleep(0)

    assert len(asyncio.all_tasks()) == 1


async def test_an_error_of_the_block_is_itself() -> None:
    """As long as the caller is there."""
    with pytest.raises(ZeroDivisionError):
        async with until_disconnect(_stays):
            raise ZeroDivisionError


async def test_being_cancelled_from_above_stays_a_cancellation() -> None:
    """The server that ends is not taken for a caller that left."""

    async def block() -> None:
        async with until_disconnect(_stays):
            await asyncio.sleep(3600)

    task = asyncio.create_task(block())
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
