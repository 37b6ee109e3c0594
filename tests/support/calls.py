"""Requests to a service under test, and what comes back."""

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
from tests.support.statuses import ToldStatus, status_of_call

WAIT = 30.0
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
    """A request for as much as may be asked for."""
    return ask(prompt, ignore_eos=True, max_tokens=4096)


@dataclass(frozen=True, slots=True)
class Told:
    """The events of a stream that ended well, in the order that the grammar promises."""

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


async def told(stream: AsyncIterable[generate_pb.GenerateStreamResponse]) -> Told:
    """Read a stream of one choice to its end, and check its grammar."""
    events = await asyncio.wait_for(collect(stream), WAIT)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["delta"] * (len(kinds) - 3), "finished", "summary"]
    deltas = [event.delta for event in events[1:-2]]
    return Told(events[0].started, deltas, events[-2].finished, events[-1].summary)


async def collect(
    stream: AsyncIterable[generate_pb.GenerateStreamResponse],
) -> list[generate_pb.GenerateStreamResponse]:
    """Read a stream to its end."""
    return [event async for event in stream]


async def first(
    stream: AsyncIterable[generate_pb.GenerateStreamResponse], count: int = 1
) -> list[generate_pb.GenerateStreamResponse]:
    """Read the next events of a stream, which may be read on."""
    events = aiter(stream)
    return [await asyncio.wait_for(anext(events), WAIT) for _ in range(count)]


async def refusal(call: Any) -> ToldStatus:
    """Await a call, or read a stream to its end; the status it ended with, which must be an error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(collect(call) if hasattr(call, "__aiter__") else call, WAIT)
    return status_of_call(caught.value)


async def eventually(condition: Callable[[], object], seconds: float = WAIT) -> float:
    """Wait until `condition` holds; how many seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


def is_free(service: Running) -> bool:
    """Whether no request holds or waits for anything."""
    admission = service.loaded.admission
    busy = (
        admission.running,
        admission.waiting,
        service.loaded.backend.stats().running,
        len(service.server.calls),
    )
    return busy == (0, 0, 0, 0)
