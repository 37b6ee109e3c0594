"""Requests to a service under test, and helpers that read its streams and errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from tests.support.service import MODEL_ID, Running
from tests.support.statuses import ReceivedStatus, status_of_call

TIMEOUT_SECONDS = 30.0
"""Seconds after which a test gives up."""


def ask(
    prompt: str = "hello world", *, sampling: dict[str, Any] | None = None, **stopping: Any
) -> generate_pb.GenerateRequest:
    """A request for a greedy answer; `stopping` are fields of StoppingOptions."""
    return generate_pb.GenerateRequest(
        model=MODEL_ID,
        prompt=prompt,
        sampling=pb.SamplingOptions(**{"temperature": 0.0, **(sampling or {})}),
        stopping=pb.StoppingOptions(**stopping),
    )


def endless(prompt: str = "hello world") -> generate_pb.GenerateRequest:
    """A request for the largest number of tokens that the service allows."""
    return ask(prompt, ignore_eos=True, max_tokens=4096)


@dataclass(frozen=True, slots=True)
class CompletedStream:
    """The events of a stream that ended without an error, in the order that the protocol demands."""

    started: pb.Started
    deltas: Sequence[pb.Delta]
    finished: pb.Finished
    summary: pb.Summary

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]


async def read_stream(stream: AsyncIterable[generate_pb.GenerateStreamResponse]) -> CompletedStream:
    """Read a stream of one choice to its end, and check the order of its events."""
    events = await asyncio.wait_for(collect(stream), TIMEOUT_SECONDS)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["delta"] * (len(kinds) - 3), "finished", "summary"]
    deltas = [event.delta for event in events[1:-2]]
    return CompletedStream(events[0].started, deltas, events[-2].finished, events[-1].summary)


async def collect(
    stream: AsyncIterable[generate_pb.GenerateStreamResponse],
) -> list[generate_pb.GenerateStreamResponse]:
    """Read a stream to its end."""
    return [event async for event in stream]


async def first(
    stream: AsyncIterable[generate_pb.GenerateStreamResponse], count: int = 1
) -> list[generate_pb.GenerateStreamResponse]:
    """Read the next events of a stream; the caller may read more of it later."""
    events = aiter(stream)
    return [await asyncio.wait_for(anext(events), TIMEOUT_SECONDS) for _ in range(count)]


async def refusal(call: Any) -> ReceivedStatus:
    """Await a call, or read a stream to its end. Return its status, which must be an error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(collect(call) if hasattr(call, "__aiter__") else call, TIMEOUT_SECONDS)
    return status_of_call(caught.value)


async def eventually(condition: Callable[[], object], seconds: float = TIMEOUT_SECONDS) -> float:
    """Wait until `condition` holds. Return how many seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


def is_free(service: Running) -> bool:
    """Whether no request holds or waits for a permit or a slot."""
    admission = service.loaded.admission
    busy = (
        admission.running,
        admission.waiting,
        service.loaded.backend.stats().running,
        len(service.server.calls),
    )
    return busy == (0, 0, 0, 0)
