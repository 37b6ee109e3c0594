"""Cancelled calls free everything that they held, at any moment."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from inference_service.backends.simulated.backend import SimulatedBackend
from tests.support.calls import ask, endless, eventually, first, is_free, read_stream
from tests.support.service import SMALL_WINDOW, Running, connect, running_service

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOUND = 5.0
"""Seconds within which everything must be free; on an idle machine it takes milliseconds."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Running]:
    """A service in which every phase is long enough to be interrupted."""
    async with running_service(
        max_concurrency=40, simulated_prefill_tps=50, simulated_decode_tps=100
    ) as running:
        yield running


async def test_a_cancellation_in_the_queue() -> None:
    async with running_service(max_concurrency=1) as busy:
        holder = busy.generate_stub.GenerateStream(ask("@sim(stall_at=1)"))
        await first(holder)
        waiting = busy.generate_stub.GenerateStream(ask())
        await eventually(lambda: busy.loaded.admission.waiting)

        waiting.cancel()

        await eventually(lambda: not busy.loaded.admission.waiting, BOUND)
        assert busy.loaded.admission.running == 1
        await eventually(lambda: len(busy.server.calls) == 1, BOUND)
        holder.cancel()
        await eventually(lambda: is_free(busy), BOUND)


async def test_a_cancellation_during_the_prefill(service: Running) -> None:
    stream = service.generate_stub.GenerateStream(ask("many words " * 50))
    (started,) = await first(stream)
    assert started.WhichOneof("event") == "started"
    await eventually(lambda: service.loaded.backend.stats().running)

    stream.cancel()

    await eventually(lambda: is_free(service), BOUND)


async def test_a_cancellation_in_the_middle_of_a_stream(service: Running) -> None:
    stream = service.generate_stub.GenerateStream(endless())
    await first(stream, 5)

    stream.cancel()

    await eventually(lambda: is_free(service), BOUND)


async def test_a_cancellation_of_the_unary_method(service: Running) -> None:
    call = service.generate_stub.Generate(endless())
    waiting = asyncio.ensure_future(call)
    await eventually(lambda: service.loaded.backend.stats().running)

    call.cancel()

    await eventually(lambda: is_free(service), BOUND)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_closed_connection_cancels_its_calls(service: Running) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel:
        stub = type(service.generate_stub)(channel)
        await asyncio.gather(*[first(stub.GenerateStream(endless())) for _ in range(5)])
        assert service.loaded.admission.running == 5

    await eventually(lambda: is_free(service), BOUND)


async def test_the_engine_ends_a_request_before_its_permit_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds also for a cancellation between two steps of the engine, with unread messages."""
    permits: list[int] = []
    async with running_service() as busy, connect(busy.address, *SMALL_WINDOW) as channel:
        leave = SimulatedBackend._leave

        def recorded_leave(backend: SimulatedBackend, *, keep_slot: bool) -> None:
            permits.append(busy.loaded.admission.running)
            leave(backend, keep_slot=keep_slot)

        monkeypatch.setattr(SimulatedBackend, "_leave", recorded_leave)
        stream = type(busy.generate_stub)(channel).GenerateStream(endless("漢字 and more " * 400))
        await eventually(lambda: any(call.writing_since for call in busy.server.calls))
        await asyncio.sleep(0.2)

        stream.cancel()

        await eventually(lambda: is_free(busy), BOUND)
        assert permits == [1]


async def test_a_hundred_cancellations_at_random_moments(service: Running) -> None:
    """Cancelled in the queue, in the prefill and in the stream, every slot, task and call is soon free."""
    await read_stream(service.generate_stub.GenerateStream(ask()))
    await eventually(lambda: is_free(service))
    tasks_before = len(asyncio.all_tasks())
    moments = random.Random(20)

    seconds = await asyncio.gather(*[_cancel_stream_after(service, 2 * moments.random()) for _ in range(100)])

    p50, longest = statistics.median(seconds) * 1e3, max(seconds) * 1e3
    print(f"freed after a cancel: p50 {p50:.1f} ms, max {longest:.1f} ms")
    await eventually(lambda: is_free(service), BOUND)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before, BOUND)
    answer = await read_stream(service.generate_stub.GenerateStream(ask("and now?")))
    assert answer.text.endswith("] and now?")


async def _cancel_stream_after(service: Running, seconds: float) -> float:
    """Start a stream and cancel it after some seconds. Return the seconds until everything was free."""
    request_id = f"leaving-{seconds}"
    stream = service.generate_stub.GenerateStream(
        endless("a few words " * 8), metadata=grpc.aio.Metadata(("x-request-id", request_id))
    )
    await asyncio.sleep(seconds)
    stream.cancel()
    return await eventually(
        lambda: all(call.request_id != request_id for call in service.server.calls), BOUND
    )


async def test_an_abort_that_the_engine_ignores_is_visible_in_the_stats(service: Running) -> None:
    stream = service.generate_stub.GenerateStream(endless("@sim(ignore_cancel)"))
    await first(stream, 3)

    stream.cancel()

    await eventually(lambda: service.loaded.backend.stats().aborts_pending == 1, BOUND)
    assert service.loaded.backend.stats().running == 1
    assert service.loaded.admission.running == 0
    await eventually(lambda: is_free(service), BOUND)
    assert service.loaded.backend.stats().aborts_pending == 0
