"""Requests of several choices on a busy or draining service, and with disconnecting callers.

Their log lines.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generate_service_pb2_grpc as generate_grpc
from lodestream.inference.v1 import generation_pb2 as pb
from structlog.testing import capture_logs

from tests.support.calls import TIMEOUT_SECONDS, ask, collect, endless, eventually, first, is_free, refusal
from tests.support.generations import both, spoken
from tests.support.service import SMALL_WINDOW, Running, connect, running_service

STALLS = "@sim(stall_at=2)"


def several(request: generate_pb.GenerateRequest, n: int = 4) -> generate_pb.GenerateRequest:
    """A copy of the request for `n` choices."""
    request.output.n = n
    return request


@asynccontextmanager
async def draining(service: Running, abort: asyncio.Event) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(service.server.drain(abort))
    await asyncio.sleep(0.05)
    try:
        yield task
    finally:
        task.cancel()


def texts(events: list[generate_pb.GenerateStreamResponse], n: int) -> list[str]:
    deltas = [event.delta for event in events if event.HasField("delta")]
    return ["".join(d.text for d in deltas if d.choice_index == index) for index in range(n)]


async def test_waiting_choices_may_finish_while_the_service_drains() -> None:
    async with running_service(max_concurrency=1, simulated_decode_tps=100, shutdown_grace=30) as service:
        stream = service.generate_stub.GenerateStream(several(ask()))
        reading = asyncio.create_task(collect(stream))
        await eventually(lambda: service.loaded.admission.waiting == 3)

        async with draining(service, asyncio.Event()) as drain:
            events = await asyncio.wait_for(reading, TIMEOUT_SECONDS)
            await asyncio.wait_for(drain, TIMEOUT_SECONDS)

    assert all(text.endswith("hello world") for text in texts(events, 4))
    assert events[-1].HasField("summary")


@pytest.mark.parametrize("in_a_abort", [True, False])
async def test_the_end_of_the_grace_period_ends_all_choices(in_a_abort: bool) -> None:
    async with running_service(max_concurrency=2, shutdown_grace=600 if in_a_abort else 0.2) as service:
        stream = service.generate_stub.GenerateStream(several(ask(STALLS)))
        await first(stream, 3)
        await eventually(lambda: service.loaded.admission.waiting == 2)
        abort = asyncio.Event()

        async with draining(service, abort) as drain:
            if in_a_abort:
                abort.set()
            assert (await refusal(stream)).reason == "NOT_READY"
            await asyncio.wait_for(drain, TIMEOUT_SECONDS)
        assert is_free(service)


async def test_all_choices_of_a_stalled_reader_are_ended() -> None:
    async with (
        running_service(stall_timeout=0.5, max_concurrency=2) as service,
        connect(service.address, *SMALL_WINDOW) as channel,
    ):
        stub = generate_grpc.GenerateServiceStub(channel)
        stream = stub.GenerateStream(several(endless("漢字 and more " * 400)))
        await eventually(lambda: any(call.writing_since for call in service.server.calls))

        await eventually(lambda: is_free(service))
        assert (await refusal(stream)).reason == "READER_STALLED"


async def test_thirty_callers_disconnect_at_random_moments() -> None:
    async with running_service(
        max_concurrency=4, queue_limit=1000, simulated_prefill_tps=100, simulated_decode_tps=100
    ) as service:
        await collect(service.generate_stub.GenerateStream(ask()))
        await eventually(lambda: is_free(service))
        before = len(asyncio.all_tasks())
        moments = random.Random(4)

        async def leave() -> None:
            request = several(endless("a few words " * 4), moments.randint(1, 8))
            stream = service.generate_stub.GenerateStream(request)
            await asyncio.sleep(moments.random())
            stream.cancel()

        await asyncio.gather(*[leave() for _ in range(30)])

        await eventually(lambda: is_free(service))
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
        assert all(text.endswith("again") for text in await _answers(service, "again"))


async def _answers(service: Running, prompt: str) -> list[str]:
    return [choice.text for choice in (await both(service, several(ask(prompt)))).choices]


async def test_a_request_of_several_choices_is_admitted_whole_or_not_at_all() -> None:
    async with running_service(max_concurrency=1, queue_limit=3) as service:
        holder = service.generate_stub.GenerateStream(several(ask(STALLS), 3))
        await first(holder)
        await eventually(lambda: service.loaded.admission.waiting == 2)

        status = await refusal(service.generate_stub.Generate(several(ask(), 2)))
        assert (status.code, status.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert service.loaded.admission.waiting == 2

        holder.cancel()
        await eventually(lambda: is_free(service))


async def test_many_simultaneous_requests_do_not_exceed_the_queue_limit() -> None:
    """The limit holds for any number of requests in one iteration of the loop."""
    async with running_service(max_concurrency=1, queue_limit=8) as service:
        calls = [service.generate_stub.Generate(several(ask(STALLS), 8), timeout=2) for _ in range(20)]
        most = 0
        waiting = asyncio.gather(*calls, return_exceptions=True)
        while not waiting.done():
            most = max(most, service.loaded.admission.waiting)
            await asyncio.sleep(0.001)

        errors = [error for error in await waiting if isinstance(error, grpc.aio.AioRpcError)]
        assert most == 7
        assert len([e for e in errors if e.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]) == 19


async def test_a_deadline_within_the_estimate_is_refused_without_waiting() -> None:
    async with running_service(max_concurrency=1) as service:
        service.admission._record(1000.0)
        holder = service.generate_stub.GenerateStream(ask(STALLS))
        await first(holder)

        for n in (1, 4):
            request = several(ask(), n)
            for call in (
                service.generate_stub.Generate(request, timeout=TIMEOUT_SECONDS),
                service.generate_stub.GenerateStream(request, timeout=TIMEOUT_SECONDS),
            ):
                status = await refusal(call)
                assert (status.code, status.reason) == (
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    "DEADLINE_EXCEEDED",
                )
                assert "waits about 1000.0 s" in status.message
        assert (service.loaded.admission.running, service.loaded.admission.waiting) == (1, 0)
        holder.cancel()
        await eventually(lambda: is_free(service))
        assert (await service.generate_stub.Generate(ask(), timeout=TIMEOUT_SECONDS)).choices


async def test_a_deadline_ends_choices_that_never_ran() -> None:
    async with running_service(max_concurrency=1) as service:
        answer = await service.generate_stub.Generate(several(ask(STALLS), 3), timeout=2)

        assert [choice.token_count for choice in answer.choices] == [2, 0, 0]
        for choice in answer.choices:
            assert choice.finished.reason == pb.FINISH_REASON_LENGTH
            assert choice.finished.cause == pb.STOP_CAUSE_DEADLINE
        await eventually(lambda: is_free(service))


async def test_the_log_line_counts_choices_and_names_filter_rules(tmp_path: Path) -> None:
    path = tmp_path / "filter.toml"
    rules = '[[rules]]\nname = "no birds"\naction = "block"\napplies_to = "output"\nphrases = ["heron"]\n'
    path.write_text(rules, encoding="utf-8")
    with capture_logs() as logs:
        async with running_service(max_concurrency=2, content_filter_file=path) as service:
            await service.generate_stub.Generate(
                several(spoken("@say<<a heron>>"), 2), timeout=TIMEOUT_SECONDS
            )
            await service.generate_stub.Generate(several(ask("x"), 3), timeout=TIMEOUT_SECONDS)
            only_checked = several(ask("x"), 3)
            only_checked.validate_only = True
            await service.generate_stub.Generate(only_checked, timeout=TIMEOUT_SECONDS)
            await eventually(lambda: is_free(service))

    filtered, plain, checked = [line for line in logs if line["event"] == "rpc"]
    assert (filtered["choices"], filtered["finish"]) == (2, "content_filter,content_filter")
    assert filtered["filter_rules"] == ["no birds"]
    assert (plain["choices"], plain["finish"]) == (3, ",".join(["end_of_sequence"] * 3))
    assert plain["filter_rules"] is None
    assert (checked["choices"], checked["finish"], checked["completion_tokens"]) == (0, None, 0)
    assert {line["outcome"] for line in (filtered, plain, checked)} == {"ok"}
