"""Paced streams of a service: which messages are gathered, and which never are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from tests.support.calls import refusal
from tests.support.service import MODEL_ID, Running, running_service

LONG = 10.0
"""The largest interval, in seconds, for which the service gathers. No test waits that long."""
Events = list[generate_pb.GenerateStreamResponse]


@pytest.fixture
async def service() -> AsyncIterator[Running]:
    async with running_service(
        stream_pacing="always", max_stream_interval=LONG, simulated_decode_tps=200
    ) as running:
        yield running


def request(tokens: int = 60, *, stop: str | None = None, n: int = 1) -> generate_pb.GenerateRequest:
    return generate_pb.GenerateRequest(
        model=MODEL_ID,
        prompt="one two three four five six seven eight nine ten",
        stopping=pb.StoppingOptions(max_tokens=tokens, ignore_eos=True, stop=[stop] if stop else []),
        output=pb.OutputOptions(n=n),
    )


async def read(
    service: Running,
    message: generate_pb.GenerateRequest,
    interval: str | None = None,
    timeout: float = LONG / 2,
) -> Events:
    metadata = () if interval is None else (("x-stream-interval", interval),)
    call = service.generate_stub.GenerateStream(message, metadata=metadata)
    async with asyncio.timeout(timeout):
        return [event async for event in call]


def deltas(events: Events, choice: int = 0) -> list[pb.Delta]:
    return [e.delta for e in events if e.HasField("delta") and e.delta.choice_index == choice]


async def test_ready_deltas_are_sent_together_and_the_end_is_not_delayed(
    service: Running,
) -> None:
    found = deltas(await read(service, request()))

    assert sum(delta.token_count for delta in found) == 60
    assert len(found) == 2, "the first output, and all that was made by the end"


async def test_the_first_output_is_not_delayed(service: Running) -> None:
    call = service.generate_stub.GenerateStream(request(3_000))
    async with asyncio.timeout(LONG / 2):
        async for event in call:
            if event.HasField("delta"):
                break
    call.cancel()

    assert event.delta.token_count < 100


async def test_choices_do_not_wait_for_each_other(service: Running) -> None:
    events = await read(service, request(n=3))

    for choice in range(3):
        assert len(deltas(events, choice)) == 2


@pytest.mark.parametrize("interval", ["0", "0.0", "0.000"])
async def test_a_caller_may_turn_off_gathering(interval: str) -> None:
    async with running_service(stream_pacing="always", max_stream_interval=LONG) as service:
        found = deltas(await read(service, request(), interval))

    assert [delta.token_count for delta in found] == [1] * 60


async def test_a_caller_may_set_a_smaller_interval(service: Running) -> None:
    found = deltas(await read(service, request(), "0.05"))

    assert sum(delta.token_count for delta in found) == 60
    assert 2 < len(found) < 60


async def test_a_stop_sequence_is_not_delayed(service: Running) -> None:
    events = await read(service, request(3_000, stop="three"))

    assert events[-2].finished.cause == pb.STOP_CAUSE_STOP_SEQUENCE


async def test_gathered_output_is_sent_at_the_deadline(service: Running) -> None:
    call = service.generate_stub.GenerateStream(request(3_000), timeout=1.0)
    async with asyncio.timeout(LONG / 2):
        events = [event async for event in call]

    assert events[-2].finished.cause == pb.STOP_CAUSE_DEADLINE
    assert len(deltas(events)) >= 2, "more than the first output"


async def test_whole_answers_are_not_delayed(service: Running) -> None:
    async with asyncio.timeout(LONG / 2):
        answer = await service.generate_stub.Generate(request())

    assert answer.choices[0].token_count == 60


@pytest.mark.parametrize("interval", ["", "-1", "11", "10.5", "soon", "nan", "1e3"])
async def test_a_bad_interval_is_refused_by_both_methods(service: Running, interval: str) -> None:
    metadata = (("x-stream-interval", interval),)
    for call in (
        service.generate_stub.Generate(request(), metadata=metadata),
        service.generate_stub.GenerateStream(request(), metadata=metadata),
    ):
        status = await refusal(call)

        assert status.code is grpc.StatusCode.INVALID_ARGUMENT
        assert status.fields == ["x-stream-interval"]
        assert "must be a number of seconds in [0, 10]" in status.message
