from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference_client import AsyncClient, Client, ClosedError, Delta, Started
from tests.support.scripted import (
    Event,
    Response,
    Running,
    ScriptedService,
    delta,
    eventually,
    started,
    whole_answer,
)


async def _endless(request: Any, context: Any) -> AsyncIterator[Event]:
    yield started()
    while True:
        yield delta("word ")
        await asyncio.sleep(0.005)


async def _prefill(request: Any, context: Any) -> AsyncIterator[Event]:
    """A stream that never sends an event."""
    await asyncio.sleep(60)
    yield started()


async def _sleep(request: Any, context: Any) -> Response:
    await asyncio.sleep(60)
    return whole_answer()


def _tasks() -> set[asyncio.Task[Any] | None]:
    """Every task except those of the server's loop."""
    return {
        task
        for task in asyncio.all_tasks()
        if not getattr(task.get_coro(), "__qualname__", "").startswith("AioServer.")
    }


@pytest.fixture(autouse=True)
async def no_task_is_left(running: Running) -> AsyncIterator[None]:
    """Check that cancelled calls end on both sides and leave no task."""
    yield
    await eventually(lambda: running.service.running == 0)
    gc.collect()
    await eventually(lambda: _tasks() == {asyncio.current_task()})


async def _read_some(client: AsyncClient, count: int) -> None:
    async with client.stream(model="m", prompt="p") as stream:
        for _ in range(count):
            await anext(stream)


async def test_leaving_the_block_cancels_at_once(client: AsyncClient, service: ScriptedService) -> None:
    service.stream = _endless
    stream = client.stream(model="m", prompt="p")
    async with stream:
        await anext(stream)

    assert await eventually(lambda: service.cancelled == 1) < 2


async def test_an_exception_in_the_block_cancels(client: AsyncClient, service: ScriptedService) -> None:
    service.stream = _endless

    async def use() -> None:
        async with client.stream(model="m", prompt="p") as stream:
            async for _ in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await use()
    await eventually(lambda: service.cancelled == 1)


async def test_breaking_out_and_closing_cancels(client: AsyncClient, service: ScriptedService) -> None:
    service.stream = _endless
    stream = client.stream(model="m", prompt="p")
    async for event in stream:
        if isinstance(event, Delta):
            break
    await stream.aclose()
    await stream.aclose()

    await eventually(lambda: service.cancelled == 1)
    assert [event async for event in stream] == []


async def test_a_garbage_collected_stream_is_cancelled(client: AsyncClient, service: ScriptedService) -> None:
    service.stream = _endless
    stream = client.stream(model="m", prompt="p")
    await anext(stream)
    del stream

    await eventually(lambda: service.cancelled == 1)


@pytest.mark.parametrize("script", [_endless, _prefill], ids=["mid-stream", "before the first event"])
async def test_cancelling_the_task_cancels_the_call(
    client: AsyncClient, service: ScriptedService, script: Any
) -> None:
    """CancelledError is passed on unchanged."""
    service.stream = script
    task = asyncio.create_task(_read_some(client, 10_000))
    await eventually(lambda: service.running == 1)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: service.cancelled == 1)


async def test_cancelling_a_whole_answer_cancels_the_call(
    client: AsyncClient, service: ScriptedService
) -> None:
    service.answer = _sleep
    task = asyncio.create_task(client.generate(model="m", prompt="p"))
    await eventually(lambda: service.running == 1)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: service.cancelled == 1)


async def test_a_timeout_around_a_stream_cancels(client: AsyncClient, service: ScriptedService) -> None:
    service.stream = _endless
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(_read_some(client, 10_000), 0.3)

    await eventually(lambda: service.cancelled == 1)


async def test_the_client_still_works_after_cancellations(
    client: AsyncClient, service: ScriptedService
) -> None:
    """A hundred streams are cancelled at different moments, also before their first event."""
    service.stream = _endless
    tasks = [asyncio.create_task(_read_some(client, 10_000)) for _ in range(100)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(number % 7 * 0.002)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    await eventually(lambda: service.running == 0)
    assert (await client.generate(model="m", prompt="p")).text == "Hello"


async def test_closing_from_another_task_is_not_a_cancellation(
    client: AsyncClient, service: ScriptedService
) -> None:
    """The reader was not cancelled, so it must not get a CancelledError."""
    service.stream = _prefill
    stream = client.stream(model="m", prompt="p", request_id="r1")
    reader = asyncio.create_task(anext(stream))
    await eventually(lambda: service.running == 1)
    await stream.aclose()

    with pytest.raises(ClosedError) as caught:
        await reader
    assert caught.value.request_id == "r1"


async def test_closing_the_client_ends_its_calls(running: Running) -> None:
    service = running.service
    service.stream, service.answer = _endless, _sleep
    client = AsyncClient(running.target)
    reader = asyncio.create_task(_read_some(client, 10_000))
    caller = asyncio.create_task(client.generate(model="m", prompt="p"))
    await eventually(lambda: service.running == 2)
    await client.close()

    for task in (reader, caller):
        with pytest.raises(ClosedError):
            await task
    with pytest.raises(ClosedError):
        await client.generate(model="m", prompt="p")
    await eventually(lambda: service.cancelled == 2)


def _sync_read(client: Client, count: int) -> None:
    with client.stream(model="m", prompt="p") as stream:
        for _ in range(count):
            next(stream)


async def test_leaving_the_sync_block_cancels(running: Running) -> None:
    running.service.stream = _endless
    with Client(running.target) as client:
        held = client.stream(model="m", prompt="p")

        def use() -> None:
            with held as stream:
                for _ in range(5):
                    next(stream)

        await asyncio.to_thread(use)
        await eventually(lambda: running.service.cancelled == 1)


async def test_a_garbage_collected_sync_stream_is_cancelled(running: Running) -> None:
    running.service.stream = _endless

    def use(client: Client) -> None:
        assert isinstance(next(client.stream(model="m", prompt="p")), Started)

    with Client(running.target) as client:
        await asyncio.to_thread(use, client)
        await eventually(lambda: running.service.cancelled == 1)


async def test_a_sync_stream_is_closed_from_another_thread(running: Running) -> None:
    running.service.stream = _prefill
    with Client(running.target) as client:
        stream = client.stream(model="m", prompt="p")
        reader = asyncio.create_task(asyncio.to_thread(next, stream))
        await eventually(lambda: running.service.running == 1)
        stream.close()

        with pytest.raises(ClosedError):
            await reader


async def test_closing_a_sync_client_ends_its_calls(running: Running) -> None:
    service = running.service
    service.stream, service.answer = _endless, _sleep
    client = Client(running.target)
    reader = asyncio.create_task(asyncio.to_thread(_sync_read, client, 1_000_000))
    caller = asyncio.create_task(asyncio.to_thread(client.generate, model="m", prompt="p"))
    await eventually(lambda: service.running == 2)
    client.close()

    for task in (reader, caller):
        with pytest.raises(ClosedError):
            await task
    with pytest.raises(ClosedError):
        client.generate(model="m", prompt="p")


async def test_no_thread_is_left(running: Running) -> None:
    before = threading.active_count()

    def use() -> None:
        with Client(running.target) as client:
            for _ in range(3):
                with client.stream(model="m", prompt="p") as stream:
                    stream.collect()

    thread = threading.Thread(target=use)
    thread.start()
    await asyncio.to_thread(thread.join, 30)
    # The pool of `to_thread` keeps the thread that it has just used.
    await eventually(lambda: threading.active_count() <= before + 1)
