"""Many concurrent streams: none is lost or mixed up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle

import grpc
from lodestream.inference.v1 import generate_service_pb2_grpc as generate_grpc

from inference_service.backends.simulated.answer import digest
from inference_service.backends.types import Sampling
from inference_service.prompt.tokenizer import Tokenizer
from tests.support.calls import ask, collect, eventually, first, is_free, read_stream
from tests.support.service import connect, running_service
from tests.support.statuses import status_of_call

STREAMS = 200
CONNECTIONS = 4
"""The number of connections, each of which may have 100 open calls."""
EACH_TOKEN = grpc.aio.Metadata(("x-stream-interval", "0"))
"""Tokens are not gathered, however busy the loop is."""
GREEDY = Sampling(0.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, seed=0, reproducible=True)


@asynccontextmanager
async def connections(address: str) -> AsyncIterator[list[generate_grpc.GenerateServiceAsyncStub]]:
    """Stubs on separate connections."""
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(connect(address)) for _ in range(CONNECTIONS)]
        yield [generate_grpc.GenerateServiceStub(channel) for channel in channels]


async def test_two_hundred_streams_get_the_answers_to_their_prompts(tokenizer: Tokenizer) -> None:
    prompts = [
        f"story number {number}: {'漢字 😀 ' * (number % 7)}end of {number}" for number in range(STREAMS)
    ]
    async with running_service(max_concurrency=32, queue_limit=STREAMS) as service:
        async with connections(service.address) as stubs:
            calls = [
                read_stream(stub.GenerateStream(ask(prompt)))
                for stub, prompt in zip(cycle(stubs), prompts, strict=False)
            ]
            streams = await asyncio.gather(*calls)

        for prompt, stream in zip(prompts, streams, strict=True):
            mark = digest(tokenizer.encode_prompt(prompt), GREEDY)
            assert stream.text == f"[{mark}] {prompt}"
        assert len({stream.started.request_id for stream in streams}) == STREAMS
        await eventually(lambda: is_free(service))


async def test_two_hundred_streams_run_at_once_on_two_hundred_slots() -> None:
    async with running_service(max_concurrency=STREAMS) as service, connections(service.address) as stubs:
        streams = [
            stub.GenerateStream(ask("@sim(stall_at=3)"), metadata=EACH_TOKEN)
            for stub, _ in zip(cycle(stubs), range(STREAMS), strict=False)
        ]
        await asyncio.gather(*[first(stream, 4) for stream in streams])

        assert service.loaded.backend.stats().running == STREAMS
        assert (service.loaded.admission.running, service.loaded.admission.waiting) == (STREAMS, 0)
        for stream in streams:
            stream.cancel()
        await eventually(lambda: is_free(service))


async def test_a_request_beyond_the_queue_is_refused_at_once_and_the_others_are_served() -> None:
    async with running_service(max_concurrency=2, queue_limit=10) as service:
        holders = [service.generate_stub.GenerateStream(ask("@sim(stall_at=1)")) for _ in range(2)]
        for holder in holders:
            await first(holder)
        calls = [
            asyncio.create_task(collect(service.generate_stub.GenerateStream(ask(str(number)))))
            for number in range(30)
        ]
        await eventually(lambda: sum(call.done() for call in calls) == 20)

        for holder in holders:
            holder.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)

        refused = [status_of_call(end) for end in ended if isinstance(end, grpc.aio.AioRpcError)]
        served = [end for end in ended if isinstance(end, list)]
        assert len(served) == 10
        assert {status.reason for status in refused} == {"QUEUE_FULL"}
        assert len(refused) == 20
        assert all(events[-1].WhichOneof("event") == "summary" for events in served)
        await eventually(lambda: is_free(service))
