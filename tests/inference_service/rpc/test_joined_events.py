"""Streams for callers who accept several events in one message: what is joined, and what is not held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from inference_client import AsyncClient
from tests.support.scripted import ScriptedService, delta, finished, serve, started, summary
from tests.support.service import MODEL_ID, Running, running_service

Messages = list[generate_pb.GenerateStreamResponse]
JOINED = (("x-joined-events", "1"),)
TIMEOUT_SECONDS = 10.0


@pytest.fixture
async def service() -> AsyncIterator[Running]:
    async with running_service(max_stream_interval=0) as running:
        yield running


def request(tokens: int = 1, *, n: int = 1, prompt: str = "one two three") -> generate_pb.GenerateRequest:
    return generate_pb.GenerateRequest(
        model=MODEL_ID,
        prompt=prompt,
        stopping=pb.StoppingOptions(max_tokens=tokens, ignore_eos=True),
        sampling=pb.SamplingOptions(seed=7),
        output=pb.OutputOptions(n=n),
    )


async def read(
    service: Running, message: generate_pb.GenerateRequest, metadata: tuple[tuple[str, str], ...] = JOINED
) -> Messages:
    call = service.generate_stub.GenerateStream(message, metadata=metadata)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return [message async for message in call]


def kinds(messages: Messages) -> list[list[str | None]]:
    """The kinds of the events of each message."""
    return [
        [message.WhichOneof("event"), *(further.WhichOneof("event") for further in message.further)]
        for message in messages
    ]


async def test_a_short_answer_is_one_message(service: Running) -> None:
    assert kinds(await read(service, request())) == [["started", "delta", "finished", "summary"]]


@pytest.mark.parametrize("metadata", [(), (("x-joined-events", "0"),), (("x-joined-events", ""),)])
async def test_nothing_is_joined_for_others(service: Running, metadata: tuple[tuple[str, str], ...]) -> None:
    messages = await read(service, request(), metadata)

    assert kinds(messages) == [["started"], ["delta"], ["finished"], ["summary"]]


@pytest.mark.parametrize("n", [1, 3])
async def test_the_events_are_the_same(service: Running, n: int) -> None:
    alone = await read(service, request(20, n=n), ())
    joined = await read(service, request(20, n=n))

    events = [event for message in joined for event in (message, *message.further)]
    assert len(joined) < len(events)
    assert [event.WhichOneof("event") for event in events[-2:]] == ["finished", "summary"]
    for choice in range(n):
        assert text(events, choice) == text(alone, choice)


def text(events: Messages, choice: int) -> str:
    return "".join(e.delta.text for e in events if e.HasField("delta") and e.delta.choice_index == choice)


async def test_the_start_waits_only_a_moment_for_the_first_output() -> None:
    async with running_service(simulated_prefill_tps=1) as service:
        call = service.generate_stub.GenerateStream(request(), metadata=JOINED)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            first = await anext(aiter(call))
        call.cancel()

    assert kinds([first]) == [["started"]]


async def test_a_failure_at_the_first_token_comes_after_the_start(service: Running) -> None:
    call = service.generate_stub.GenerateStream(request(prompt="@sim(fail_at=0)"), metadata=JOINED)
    messages = aiter(call)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        first = await anext(messages)
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(messages)

    assert kinds([first]) == [["started"]]


async def test_what_is_ready_when_the_caller_leaves_is_dropped(service: Running) -> None:
    call = service.generate_stub.GenerateStream(request(prompt="@sim(stall_at=0)"), metadata=JOINED)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await call.initial_metadata()
        call.cancel()
        while service.loaded.backend.stats().running:  # noqa: ASYNC110  the engine has no event for it
            await asyncio.sleep(0.01)


async def test_the_client_reads_joined_events_as_single_ones() -> None:
    scripted = ScriptedService()
    head = started()
    head.further.extend([delta("Hel"), generate_pb.GenerateStreamResponse(), delta("lo"), finished()])
    head.further.append(summary())

    async def stream(
        message: generate_pb.GenerateRequest, context: object
    ) -> AsyncIterator[generate_pb.GenerateStreamResponse]:
        yield head

    scripted.stream = stream
    async with (
        serve(scripted) as running,
        AsyncClient(running.target) as client,
        client.stream(model="m", prompt="p") as events,
    ):
        seen = [(type(event).__name__, events.has_ready_event) async for event in events]

    assert seen == [
        ("Started", True),
        ("Delta", True),
        ("Delta", True),
        ("Finished", True),
        ("Summary", False),
    ]
