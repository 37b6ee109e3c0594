"""One client with more open calls than one connection allows."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from inference_client import AsyncClient, Client, Started
from inference_client.channel import MAX_CONNECTIONS
from tests.support.calls import TIMEOUT_SECONDS
from tests.support.processes import server_process
from tests.support.service import MODEL_ID, running_service

CALLS = 400
BURST = 3000


async def test_many_streams_are_open_at_once() -> None:
    """The client opens further connections, and another call is answered meanwhile."""
    async with (
        running_service(max_concurrency=CALLS) as service,
        AsyncClient(service.address) as client,
        AsyncExitStack() as stack,
    ):
        streams = [client.stream(model=MODEL_ID, prompt="@sim(stall_at=1) a") for _ in range(CALLS)]
        for stream in streams:
            await stack.enter_async_context(stream)
        firsts = await asyncio.wait_for(asyncio.gather(*map(anext, streams)), TIMEOUT_SECONDS)

        assert all(isinstance(event, Started) for event in firsts)
        assert (await client.list_models(timeout=TIMEOUT_SECONDS))[0].id == MODEL_ID
        assert 1 < len(client._pool.opened) < MAX_CONNECTIONS


async def test_a_burst_of_calls_is_answered(tmp_path: Path) -> None:
    """The burst has more calls than gRPC's core queues by default."""
    async with (
        server_process("serve", tmp_path, grpc_address="127.0.0.1:0", backend="simulated") as service,
        AsyncClient(service.address, retries=0) as client,
    ):
        answers = await asyncio.wait_for(asyncio.gather(*[client.list_models() for _ in range(BURST)]), 60)

    assert len(answers) == BURST


async def test_a_blocking_client_has_many_streams_open_at_once() -> None:
    async with running_service(max_concurrency=CALLS) as service:

        def ask() -> str:
            with Client(service.address) as client:
                streams = [client.stream(model=MODEL_ID, prompt="@sim(stall_at=1) a") for _ in range(CALLS)]
                firsts = [next(stream) for stream in streams]
                assert all(isinstance(event, Started) for event in firsts)
                found = client.list_models(timeout=TIMEOUT_SECONDS)[0].id
                for stream in streams:
                    stream.close()
                return found

        assert await asyncio.wait_for(asyncio.to_thread(ask), TIMEOUT_SECONDS) == MODEL_ID
