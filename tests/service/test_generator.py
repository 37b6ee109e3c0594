"""One admitted request: its events, and that ending it anywhere gives back permit and engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress

import pytest

from inference_service.backends.base import Backend
from inference_service.backends.errors import EngineDeadError, EngineRequestError
from inference_service.backends.simulated import SimulatedBackend
from inference_service.backends.types import (
    BackendDescription,
    BackendStats,
    EngineFinish,
    EngineRequest,
    EngineStep,
    Sampling,
)
from inference_service.generation.admission import Admission
from inference_service.generation.choice import ChoiceStream, Stages
from inference_service.generation.deadline import Deadline, DeadlinePassed
from inference_service.generation.events import (
    Delta,
    Event,
    Finished,
    Report,
    Started,
    StopCause,
    Summary,
    Usage,
)
from inference_service.generation.generator import Generation, GenerationRequest
from inference_service.generation.run import ChoicePlan
from inference_service.generation.tokenizer import Tokenizer
from inference_service.generation.watch import Stopwatch

GREEDY = Sampling(0.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, seed=0, reproducible=True)


class Scripted(Backend):
    """An engine that says what it is told to; an exception among the steps is raised, a number is a pause."""

    def __init__(self, script: Iterable[EngineStep | Exception | float]) -> None:
        self._script = list(script)
        self.running = 0

    async def start(self) -> BackendDescription:
        raise NotImplementedError

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineStep, None]:
        self.running += 1
        try:
            for item in self._script:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, float):
                    await asyncio.sleep(item)
                else:
                    yield item
        finally:
            self.running -= 1

    def stats(self) -> BackendStats:
        return BackendStats(self.running)

    async def close(self) -> None:
        pass


class Letters:
    """Token 0 is `a`, token 1 is `b`, ..., token 26 is `a` again."""

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([ord("a") + token_id % 26])

    def token_text(self, token_id: int) -> str:
        return self.token_bytes(token_id).decode()


def generation(backend: Backend, deadline: Deadline | None = None, stops: Iterable[str] = ()) -> Generation:
    return Generation(backend, free, work(deadline, stops), Stopwatch())


def work(deadline: Deadline | None = None, stops: Iterable[str] = (), choices: int = 1) -> GenerationRequest:
    engine = EngineRequest("req-1", [1, 2, 3], GREEDY, max_tokens=50, ignore_eos=False)
    plans = [
        ChoicePlan(
            index, engine, ChoiceStream(Letters(), Stages(tuple(stops)), index), repeats_prompt=index > 0
        )
        for index in range(choices)
    ]
    return GenerationRequest("req-1", "m", 3, plans, deadline, Report(GREEDY, {}, 50))


def letters(stops: Iterable[str], index: int) -> ChoiceStream:
    return ChoiceStream(Letters(), Stages(tuple(stops)), index)


def free() -> AbstractAsyncContextManager[int]:
    """A permit that is there at once."""
    return nullcontext(1)


async def said(running: Generation) -> list[Event]:
    return [event async for event in running.events()]


async def test_the_events_of_a_request() -> None:
    steps = [
        EngineStep([0], 1, None, cached_tokens=2),
        EngineStep([1, 9], 2, None, EngineFinish.END_OF_SEQUENCE),
    ]
    running = generation(Scripted(steps))

    started, first, second, finished, summary = await said(running)

    assert isinstance(started, Started)
    assert (started.request_id, started.model, started.prompt_tokens) == ("req-1", "m", 3)
    assert first == Delta(0, "a", [0], 1)
    assert second == Delta(0, "b", [1], 1)
    assert finished == Finished(0, StopCause.END_OF_SEQUENCE, stop_token_id=9)
    assert isinstance(summary, Summary)
    assert summary.usage == Usage(3, 3, 2)


async def test_tokens_cut_by_a_stop_are_counted_and_the_engine_is_freed() -> None:
    backend = Scripted([EngineStep([0, 1, 2, 3], 4, None), 60.0])
    running = generation(backend, stops=["bc"])

    events = await said(running)

    assert events[1:3] == [Delta(0, "a", [0], 1), Finished(0, StopCause.STOP_SEQUENCE, stop_sequence="bc")]
    assert running.usage == Usage(3, 4, 0)
    assert backend.running == 0


async def test_tokens_without_names_are_counted() -> None:
    backend = Scripted([EngineStep([5], 3, "漢"), EngineStep([], 0, None, EngineFinish.MAX_TOKENS)])
    running = generation(backend)

    events = await said(running)

    assert events[1] == Delta(0, "漢", [5], 3)
    assert running.usage == Usage(3, 3, 0)


async def test_progress_of_the_prefill_is_no_token() -> None:
    backend = Scripted([EngineStep([], 0, None), 60.0])

    with pytest.raises(DeadlinePassed):
        await said(generation(backend, Deadline(time.monotonic() + 0.05)))
    assert backend.running == 0


async def test_a_deadline_after_the_first_token_keeps_what_was_made() -> None:
    backend = Scripted([EngineStep([0, 1], 2, None), 60.0])
    running = generation(backend, Deadline(time.monotonic() + 0.1), stops=["bz"])

    events = await said(running)

    assert events[1:-1] == [Delta(0, "a", [0], 1), Delta(0, "b", [1], 1), Finished(0, StopCause.DEADLINE)]
    assert running.usage == Usage(3, 2, 0)
    assert backend.running == 0


@pytest.mark.parametrize("error", [EngineRequestError("one"), EngineDeadError("all"), RuntimeError("bug")])
async def test_what_the_engine_raises_is_passed_on(error: Exception) -> None:
    backend = Scripted([EngineStep([0], 1, None), error])

    with pytest.raises(type(error)):
        await said(generation(backend))
    assert backend.running == 0


async def test_an_engine_that_just_stops_has_failed() -> None:
    with pytest.raises(EngineRequestError):
        await said(generation(Scripted([EngineStep([0], 1, None)])))


async def test_timings_add_up() -> None:
    backend = Scripted(
        [0.02, EngineStep([0], 1, None), 0.03, EngineStep([1], 1, None, EngineFinish.MAX_TOKENS)]
    )
    watch = Stopwatch()
    await asyncio.sleep(0.01)
    watch.on_admitted()

    *_, summary = await said(Generation(backend, free, work(), watch))

    assert isinstance(summary, Summary)
    timings = summary.timings
    assert timings.queue_ms >= 9
    assert timings.prefill_ms >= 19
    assert timings.decode_ms >= 29
    assert timings.time_to_first_token_ms == pytest.approx(timings.queue_ms + timings.prefill_ms)


@pytest.mark.parametrize("with_deadline", [True, False])
async def test_a_cancel_at_any_step_gives_back_permit_and_engine(
    tokenizer: Tokenizer, with_deadline: bool
) -> None:
    """At every single suspension between waiting for the permit and the last event."""
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=1)
    admission = Admission(capacity=1, queue_limit=1)
    done = False
    steps = 0
    while not done:
        done = await _cancel_after(steps, backend, admission, with_deadline)
        steps += 1
        assert (admission.running, admission.waiting, backend.stats().running) == (0, 0, 0)
    assert steps > 20


async def _cancel_after(steps: int, backend: Backend, admission: Admission, with_deadline: bool) -> bool:
    """Cancel a request after that many turns of the loop; True if it was over before."""
    deadline = Deadline(time.monotonic() + 60) if with_deadline else None

    async def serve() -> None:
        async with (
            admission.permit("t", deadline),
            aclosing(generation(backend, deadline).events()) as events,
        ):
            async for _ in events:
                await asyncio.sleep(0)

    async with admission.permit("other"):
        task = asyncio.create_task(serve())
        for _ in range(min(steps, 3)):
            await asyncio.sleep(0)
    for _ in range(steps - 3):
        await asyncio.sleep(0)
    was_over = task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return was_over


async def test_leaving_in_the_middle_leaves_no_task_behind(tokenizer: Tokenizer) -> None:
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=1)
    before = asyncio.all_tasks()

    async with aclosing(generation(backend).events()) as events:
        async for event in events:
            if isinstance(event, Delta):
                break

    for _ in range(3):
        assert asyncio.all_tasks() == before
        await asyncio.sleep(0)


async def test_two_requests_of_one_id_are_two_requests(tokenizer: Tokenizer) -> None:
    """Callers choose request ids, and may choose the same one twice."""
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=2, decode_tps=1)
    request = EngineRequest("same", [1, 2, 3], GREEDY, max_tokens=50, ignore_eos=False)
    tasks = [asyncio.create_task(anext(backend.generate(request))) for _ in range(2)]
    await asyncio.sleep(0.01)

    assert backend.stats().running == 2
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert backend.stats().running == 1
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert backend.stats().running == 0


async def test_an_engine_whose_tokens_nobody_takes_is_not_stalled(tokenizer: Tokenizer) -> None:
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=1)
    request = EngineRequest("r", [1, 2, 3], GREEDY, max_tokens=50, ignore_eos=False)

    async with aclosing(backend.generate(request)) as steps:
        await anext(steps)
        await asyncio.sleep(0.05)
        assert backend.stats().last_step_age == 0

        await anext(steps)
        assert backend.stats().last_step_age < 0.05


async def test_an_engine_that_does_not_get_on_shows_for_how_long(tokenizer: Tokenizer) -> None:
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=1, faults="stall_at=0")
    request = EngineRequest("r", [1, 2, 3], GREEDY, max_tokens=50, ignore_eos=False)
    task = asyncio.create_task(anext(backend.generate(request)))

    await asyncio.sleep(0.05)

    assert backend.stats().last_step_age >= 0.04
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert backend.stats().last_step_age == 0
