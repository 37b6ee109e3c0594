from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference_client import (
    AsyncClient,
    Client,
    Delta,
    Finished,
    FinishReason,
    InternalError,
    ProtocolError,
    Started,
    StopCause,
    Summary,
    Timings,
    Usage,
)
from tests.inference_client.conftest import Caller
from tests.support.scripted import (
    HELLO,
    Event,
    Running,
    ScriptedService,
    delta,
    error_info,
    eventually,
    finished,
    refuse,
    script,
    started,
    summary,
)


async def test_events_arrive_unchanged_and_in_order(caller: Caller, service: ScriptedService) -> None:
    end = finished(reason=1, cause=2, stop_sequence="END", stop_token_id=9)
    service.stream = script(started(), delta("a", ids=[1, 2]), delta("", ids=[]), end, summary())

    assert await caller.events(model="m", prompt="p") == [
        Started("server-id", "m", 7, 3),
        Delta(0, "a", (1, 2), 2),
        Delta(0, "", (), 0),
        Finished(0, FinishReason.STOP, StopCause.STOP_SEQUENCE, "END", 9),
        Summary(Usage(3, 2, 1), Timings(1.0, 2.0, 3.0, 4.0)),
    ]


async def test_text_iterates_over_the_first_choice(client: AsyncClient, service: ScriptedService) -> None:
    service.stream = script(
        started(), delta("a"), delta("X", 1), delta(""), delta("b"), finished(1), finished(0), summary()
    )
    async with client.stream(model="m", prompt="p", n=2) as stream:
        assert [text async for text in stream.text()] == ["a", "b"]


async def test_choices_are_collected_by_index(client: AsyncClient, service: ScriptedService) -> None:
    service.stream = script(
        started(),
        delta("b", 1),
        delta("a"),
        delta("B", 1),
        finished(1, reason=2, cause=4),
        finished(0),
        summary(),
    )
    async with client.stream(model="m", prompt="p", n=2) as stream:
        generation = await stream.collect()

    assert [(choice.index, choice.text) for choice in generation.choices] == [(0, "a"), (1, "bB")]
    assert generation.choices[1].finish_reason is FinishReason.LENGTH


async def test_the_sync_stream_has_text_and_collect(running: Running) -> None:
    def use() -> tuple[list[str], str]:
        with Client(running.target) as client:
            with client.stream(model="m", prompt="p") as stream:
                pieces = list(stream.text())
            with client.stream(model="m", prompt="p") as stream:
                return pieces, stream.collect().text

    assert await asyncio.to_thread(use) == (["Hel", "lo"], "Hello")


async def test_collect_needs_the_whole_stream(client: AsyncClient) -> None:
    async with client.stream(model="m", prompt="p") as stream:
        await anext(stream)
        with pytest.raises(RuntimeError, match="nothing was read"):
            await stream.collect()


async def test_the_stream_has_the_service_s_request_id(client: AsyncClient) -> None:
    async with client.stream(model="m", prompt="p", request_id="mine") as stream:
        assert stream.request_id == "mine"
        await anext(stream)
        assert stream.request_id == "server-id"


async def test_nothing_is_sent_before_the_first_event_is_read(
    client: AsyncClient, service: ScriptedService
) -> None:
    async with client.stream(model="m", prompt="p"):
        pass
    await client.list_models()

    assert len(service.seen) == 1


async def test_kinds_of_events_of_a_newer_service_are_skipped(
    caller: Caller, service: ScriptedService
) -> None:
    unknown = Event.FromString(b"\x9a\x06\x00")  # field 99
    service.stream = script(unknown, *HELLO[:2], unknown, *HELLO[2:], unknown)

    assert len(await caller.events(model="m", prompt="p")) == len(HELLO)


async def test_an_invalid_order_of_events_cancels_the_call(
    client: AsyncClient, service: ScriptedService
) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[Event]:
        yield started()
        yield started()
        await asyncio.sleep(60)

    service.stream = stream
    stream_object = client.stream(model="m", prompt="p")
    with pytest.raises(ProtocolError):
        _ = [event async for event in stream_object]

    await eventually(lambda: service.cancelled == 1)
    assert [event async for event in stream_object] == []


async def test_an_error_after_the_first_event_ends_the_stream(
    caller: Caller, service: ScriptedService
) -> None:
    import grpc

    async def stream(request: Any, context: Any) -> AsyncIterator[Event]:
        yield started()
        yield delta("a")
        await refuse(context, grpc.StatusCode.INTERNAL, "Logged.", error_info("INTERNAL_ERROR"))

    service.stream = stream
    with pytest.raises(InternalError, match=r"Logged\.") as caught:
        await caller.events(model="m", prompt="p")

    assert caught.value.request_id == "server-id"


async def test_closing_after_the_summary_is_no_cancellation(
    client: AsyncClient, service: ScriptedService
) -> None:
    """The status is read before the summary is returned."""
    for _ in range(20):
        async with client.stream(model="m", prompt="p") as stream:
            async for event in stream:
                if isinstance(event, Summary):
                    break
    await eventually(lambda: service.running == 0)

    assert service.cancelled == 0


async def test_a_connection_lost_after_the_summary_is_no_error(
    caller: Caller, service: ScriptedService
) -> None:
    import grpc

    async def stream(request: Any, context: Any) -> AsyncIterator[Event]:
        for event in HELLO:
            yield event
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    service.stream = stream

    assert len(await caller.events(model="m", prompt="p")) == len(HELLO)


async def _echo(request: Any, context: Any) -> AsyncIterator[Event]:
    """Stream the words of the prompt, with pauses between them."""
    yield started()
    for word in request.prompt.split():
        yield delta(word + " ")
        await asyncio.sleep(0)
    yield finished()
    yield summary()


async def test_a_hundred_streams_at_once_are_not_mixed_up(
    client: AsyncClient, service: ScriptedService
) -> None:
    service.stream = _echo

    async def one(number: int) -> str:
        async with client.stream(model="m", prompt=f"{number} " * 20) as stream:
            return (await stream.collect()).text

    texts = await asyncio.gather(*(one(number) for number in range(100)))

    assert texts == [f"{number} " * 20 for number in range(100)]


async def test_threads_share_a_sync_client(running: Running) -> None:
    running.service.stream = _echo
    texts: dict[int, str] = {}

    def one(client: Client, number: int) -> None:
        with client.stream(model="m", prompt=f"{number} " * 10) as stream:
            texts[number] = stream.collect().text

    def all_of_them() -> None:
        with Client(running.target) as client:
            threads = [threading.Thread(target=one, args=(client, number)) for number in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)

    await asyncio.to_thread(all_of_them)

    assert texts == {number: f"{number} " * 10 for number in range(20)}
