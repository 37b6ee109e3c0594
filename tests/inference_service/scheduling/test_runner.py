"""One admitted request: its events, and that an end at any point frees permit and engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from dataclasses import replace

import pytest

from inference_service.backends.base import Backend, EngineDeadError, EngineRequestError, Steps
from inference_service.backends.simulated.backend import SimulatedBackend
from inference_service.backends.types import (
    BackendDescription,
    BackendStats,
    EngineFinish,
    EngineRequest,
    EngineStep,
    Sampling,
)
from inference_service.constraints.grammar import Grammar
from inference_service.output.events import Delta, Event, Finished, Report, Started, StopCause, Summary, Usage
from inference_service.output.pipeline import ChoicePipeline
from inference_service.prompt.tokenizer import Tokenizer
from inference_service.scheduling.admission import Admission, Deadline, DeadlinePassed
from inference_service.scheduling.runner import ChoicePlan, Generation, GenerationRequest, Progress
from tests.support.permits import permit

GREEDY = Sampling(0.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, seed=0, reproducible=True)


Script = Iterable["EngineStep | Exception | float"]


class Scripted(Backend):
    """An engine with scripted steps: an exception among them is raised, a number is a pause in seconds.

    With several scripts, each request follows the next one.
    """

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._requests = 0
        self.running = 0

    async def start(self) -> BackendDescription:
        raise NotImplementedError

    def check_grammar(self, grammar: Grammar) -> None:
        raise NotImplementedError

    async def generate(self, request: EngineRequest) -> Steps:
        self.running += 1
        script = self._scripts[min(self._requests, len(self._scripts) - 1)]
        self._requests += 1
        try:
            for item in script:
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


class Counted:
    """An endless script that counts the steps that were read."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[EngineStep]:
        while True:
            self.taken += 1
            yield EngineStep([0], 1, None)


class Letters:
    """Token 0 is `a`, token 1 is `b`, ..., token 26 is `a` again."""

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([ord("a") + token_id % 26])

    def token_text(self, token_id: int) -> str:
        return self.token_bytes(token_id).decode()


def generation(
    backend: Backend, deadline: Deadline | None = None, stops: Iterable[str] = (), choices: int = 1
) -> Generation:
    return Generation(backend, free, work(deadline, stops, choices), Progress())


def work(
    deadline: Deadline | None = None, stops: Iterable[str] = (), choices: int = 1, opening: str = ""
) -> GenerationRequest:
    engine = EngineRequest("req-1", [1, 2, 3], GREEDY, max_tokens=50, ignore_eos=False)
    plans = [
        ChoicePlan(index, engine, ChoicePipeline(Letters(), index, stops=tuple(stops)), opening, index > 0)
        for index in range(choices)
    ]
    return GenerationRequest("req-1", "m", 3, plans, deadline, Report(GREEDY, {}, 50))


def free() -> AbstractAsyncContextManager[int]:
    """A permit that is granted at once."""
    return nullcontext(1)


async def collect(running: Generation) -> list[Event]:
    return [event async for batch in running.batches() for event in batch]


async def test_the_events_of_a_request() -> None:
    steps = [
        EngineStep([0], 1, None, cached_tokens=2),
        EngineStep([1, 9], 2, None, EngineFinish.END_OF_SEQUENCE),
    ]
    running = generation(Scripted(steps))

    started, first, second, finished, summary = await collect(running)

    assert isinstance(started, Started)
    assert (started.request_id, started.model, started.prompt_tokens) == ("req-1", "m", 3)
    assert first == Delta(0, "a", [0], 1)
    assert second == Delta(0, "b", [1], 1)
    assert finished == Finished(0, StopCause.END_OF_SEQUENCE, stop_token_id=9)
    assert isinstance(summary, Summary)
    assert summary.usage == Usage(3, 3, 2)


async def test_tokens_after_a_stop_are_counted_and_the_engine_is_freed() -> None:
    backend = Scripted([EngineStep([0, 1, 2, 3], 4, None), 60.0])
    running = generation(backend, stops=["bc"])

    events = await collect(running)

    assert events[1:3] == [Delta(0, "a", [0], 1), Finished(0, StopCause.STOP_SEQUENCE, stop_sequence="bc")]
    assert running.usage == Usage(3, 4, None)
    assert backend.running == 0


async def test_tokens_without_ids_are_counted() -> None:
    backend = Scripted([EngineStep([5], 3, "漢"), EngineStep([], 0, None, EngineFinish.MAX_TOKENS)])
    running = generation(backend)

    events = await collect(running)

    assert events[1] == Delta(0, "漢", [5], 3)
    assert running.usage == Usage(3, 3, None)


async def test_progress_of_the_prefill_counts_as_no_token() -> None:
    backend = Scripted([EngineStep([], 0, None), 60.0])

    with pytest.raises(DeadlinePassed):
        await collect(generation(backend, Deadline(time.monotonic() + 0.05)))
    assert backend.running == 0


async def test_a_deadline_after_the_first_token_keeps_the_output_so_far() -> None:
    backend = Scripted([EngineStep([0, 1], 2, None), 60.0])
    running = generation(backend, Deadline(time.monotonic() + 0.1), stops=["bz"])

    events = await collect(running)

    assert events[1:-1] == [Delta(0, "a", [0], 1), Delta(0, "b", [1], 1), Finished(0, StopCause.DEADLINE)]
    assert running.usage == Usage(3, 2, None)
    assert backend.running == 0


@pytest.mark.parametrize("error", [EngineRequestError("one"), EngineDeadError("all"), RuntimeError("bug")])
async def test_an_engine_error_is_passed_on(error: Exception) -> None:
    backend = Scripted([EngineStep([0], 1, None), error])

    with pytest.raises(type(error)):
        await collect(generation(backend))
    assert backend.running == 0


async def test_an_engine_that_stops_without_a_finish_is_an_error() -> None:
    with pytest.raises(EngineRequestError):
        await collect(generation(Scripted([EngineStep([0], 1, None)])))


async def test_timings_add_up() -> None:
    backend = Scripted(
        [0.02, EngineStep([0], 1, None), 0.03, EngineStep([1], 1, None, EngineFinish.MAX_TOKENS)]
    )
    progress = Progress()
    await asyncio.sleep(0.01)
    progress.on_admitted(1)

    *_, summary = await collect(Generation(backend, free, work(), progress))

    assert isinstance(summary, Summary)
    timings = summary.timings
    assert timings.queue_ms >= 9
    assert timings.prefill_ms >= 19
    assert timings.decode_ms >= 29
    assert timings.time_to_first_token_ms == pytest.approx(timings.queue_ms + timings.prefill_ms)


@pytest.mark.parametrize("with_deadline", [True, False])
@pytest.mark.parametrize(("choices", "capacity"), [(1, 1), (3, 1), (3, 2), (2, 4)])
async def test_a_cancellation_at_any_step_frees_permits_and_engine(
    tokenizer: Tokenizer, with_deadline: bool, choices: int, capacity: int
) -> None:
    """The test cancels at every suspension from the wait for permits to the last event."""
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=capacity)
    admission = Admission(capacity=capacity, queue_limit=9)
    before = asyncio.all_tasks()
    done = False
    steps = 0
    while not done:
        done = await _cancel_after(steps, backend, admission, work(_far(with_deadline), choices=choices))
        steps += 1
        await _turns(5)
        assert (admission.running, admission.waiting, backend.stats().running) == (0, 0, 0), steps
        assert asyncio.all_tasks() == before
    assert steps > 20


def _far(with_deadline: bool) -> Deadline | None:
    return Deadline(time.monotonic() + 60) if with_deadline else None


async def _cancel_after(steps: int, backend: Backend, admission: Admission, what: GenerationRequest) -> bool:
    """Cancel a request after `steps` iterations of the loop. Return whether it had ended before."""

    async def serve() -> None:
        async for _ in served(backend, admission, what):
            await asyncio.sleep(0)

    async with permit(admission, "other"):
        task = asyncio.create_task(serve())
        await _turns(min(steps, 3))
    await _turns(steps - 3)
    was_over = task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return was_over


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def served(
    backend: Backend, admission: Admission, what: GenerationRequest
) -> AsyncGenerator[Event, None]:
    """The events of a request that waits for its permits."""
    async with (
        admission.reserve("t", what.permits, what.deadline) as wait,
        aclosing(Generation(backend, wait, what, Progress()).batches()) as batches,
    ):
        async for batch in batches:
            for event in batch:
                yield event


def step(*ids: int, finish: EngineFinish | None = None) -> EngineStep:
    return EngineStep(ids, len(ids), None, finish)


END = step(finish=EngineFinish.MAX_TOKENS)


def of_choice(events: Iterable[Event], index: int) -> list[Event]:
    return [event for event in events if isinstance(event, Delta | Finished) and event.index == index]


def text_of(events: Iterable[Event], index: int) -> str:
    return "".join(event.text for event in of_choice(events, index) if isinstance(event, Delta))


def ends_of(events: Iterable[Event]) -> dict[int, StopCause]:
    ends = [event for event in events if isinstance(event, Finished)]
    assert len({end.index for end in ends}) == len(ends)
    return {end.index: end.cause for end in ends}


async def test_choices_are_interleaved_and_each_ends_by_itself() -> None:
    backend = Scripted(
        [step(0), 0.02, step(1), 0.02, step(2), END],
        [step(3), END],
        [0.01, step(4), 0.02, step(5, finish=EngineFinish.END_OF_SEQUENCE)],
    )

    events = await collect(generation(backend, choices=3))

    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Summary)
    assert [text_of(events, index) for index in range(3)] == ["abc", "d", "e"]
    assert ends_of(events) == {
        1: StopCause.MAX_TOKENS,
        0: StopCause.MAX_TOKENS,
        2: StopCause.END_OF_SEQUENCE,
    }
    for index in range(3):
        assert isinstance(of_choice(events, index)[-1], Finished)
    places = [event.index for event in events if isinstance(event, Delta)]
    assert places != sorted(places)
    assert events.index(of_choice(events, 1)[-1]) < events.index(of_choice(events, 0)[-1])


async def test_prompt_tokens_and_cached_tokens_are_counted_once() -> None:
    steps = [EngineStep([0], 1, None, cached_tokens=2), step(1, finish=EngineFinish.MAX_TOKENS)]

    *_, summary = await collect(generation(Scripted(steps), choices=4))

    assert isinstance(summary, Summary)
    assert summary.usage == Usage(3, 8, 2)


async def test_cached_tokens_are_unknown_if_the_engine_does_not_report_them() -> None:
    *_, summary = await collect(generation(Scripted([step(0), step(1, finish=EngineFinish.MAX_TOKENS)])))

    assert isinstance(summary, Summary)
    assert summary.usage.cached_tokens is None


@pytest.mark.parametrize("error", [EngineRequestError("one"), EngineDeadError("all"), RuntimeError("bug")])
async def test_an_error_in_one_choice_ends_all_choices(error: Exception) -> None:
    backend = Scripted([step(0), 60.0], [0.02, error], [60.0])
    before = asyncio.all_tasks()

    with pytest.raises(type(error)):
        await collect(generation(backend, choices=3))
    assert backend.running == 0
    assert asyncio.all_tasks() == before


async def test_a_deadline_after_the_first_token_of_any_choice_ends_all_with_their_output() -> None:
    backend = Scripted([step(0), step(1), 60.0], [60.0], [step(2), END])
    running = generation(backend, Deadline(time.monotonic() + 0.1), choices=3)

    events = await collect(running)

    assert [text_of(events, index) for index in range(3)] == ["ab", "", "c"]
    assert ends_of(events) == {0: StopCause.DEADLINE, 1: StopCause.DEADLINE, 2: StopCause.MAX_TOKENS}
    assert backend.running == 0


async def test_a_deadline_before_any_token_is_an_error() -> None:
    backend = Scripted([60.0])
    before = asyncio.all_tasks()

    with pytest.raises(DeadlinePassed):
        await collect(generation(backend, Deadline(time.monotonic() + 0.05), choices=3))
    assert backend.running == 0
    assert asyncio.all_tasks() == before


async def test_a_choice_that_never_ran_ends_with_the_others() -> None:
    """Its opening delta is still sent."""
    admission = Admission(capacity=1, queue_limit=9)
    request = work(Deadline(time.monotonic() + 0.1), choices=2, opening="p:")

    events = [event async for event in served(Scripted([step(0), 60.0]), admission, request)]

    assert [text_of(events, index) for index in range(2)] == ["p:a", "p:"]
    assert set(ends_of(events).values()) == {StopCause.DEADLINE}
    assert (admission.running, admission.waiting) == (0, 0)


async def test_more_choices_than_permits_take_turns(tokenizer: Tokenizer) -> None:
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=2)
    admission = Admission(capacity=2, queue_limit=0)

    events = []
    async for event in served(backend, admission, work(choices=8)):
        assert backend.stats().running <= admission.running <= 2
        events.append(event)

    assert len(ends_of(events)) == 8
    assert (admission.running, admission.waiting) == (0, 0)


async def test_requests_with_more_choices_than_permits_do_not_block_each_other(tokenizer: Tokenizer) -> None:
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=2)
    admission = Admission(capacity=2, queue_limit=99)

    async def ends() -> int:
        return len(ends_of([event async for event in served(backend, admission, work(choices=5))]))

    assert await asyncio.wait_for(asyncio.gather(*[ends() for _ in range(4)]), 30) == [5] * 4


@pytest.mark.parametrize("choices", [1, 2])
async def test_a_permit_is_free_before_its_last_event_is_read(choices: int) -> None:
    """A caller that reads the end of a choice slowly does not block the engine for others."""
    admission = Admission(capacity=choices, queue_limit=0)
    backend = Scripted([step(0), END], [step(0), 60.0])

    stream = served(backend, admission, work(choices=choices))
    async for event in stream:
        if isinstance(event, Finished):
            assert admission.running == backend.running == choices - 1
            break
    await stream.aclose()
    assert admission.running == 0


async def test_a_slow_reader_pauses_every_choice() -> None:
    """Each choice keeps its step and requests no further one from the engine."""
    scripts = [Counted(), Counted()]
    backend = Scripted(*scripts)
    stream = generation(backend, choices=2).batches()

    for _ in range(4):
        await anext(stream)
        await asyncio.sleep(0.01)
    assert all(script.taken <= 3 for script in scripts)
    await stream.aclose()
    assert backend.running == 0


async def test_a_validated_request_has_only_a_start_and_a_summary() -> None:
    started, summary = await collect(generation(Scripted([60.0]), choices=0))

    assert isinstance(started, Started)
    assert isinstance(summary, Summary)
    assert summary.usage == Usage(3, 0, 0)


async def test_a_blocked_prompt_is_answered_without_the_engine() -> None:
    request = replace(work(choices=2), blocked_by="rule")
    running = Generation(Scripted([60.0]), free, request, Progress())

    _, *ends, summary = await collect(running)

    assert request.permits == 0
    assert ends == [Finished(n, StopCause.CONTENT_FILTER, filter_rule="rule") for n in range(2)]
    assert isinstance(summary, Summary)
    assert running.filter_rules == {"rule"}
    assert running.causes == [StopCause.CONTENT_FILTER]


async def test_the_opening_delta_is_sent_first_and_once() -> None:
    request = work(choices=2, opening="p:")

    events = await collect(Generation(Scripted([step(0), END]), free, request, Progress()))

    for index in range(2):
        assert of_choice(events, index)[:2] == [Delta(index, "p:", (), 0), Delta(index, "a", [0], 1)]


async def test_the_report_has_the_number_of_running_requests() -> None:
    admission = Admission(capacity=4, queue_limit=0)
    async with permit(admission, "other"):
        stream = served(Scripted([step(0), END]), admission, work())
        *_, summary = [event async for event in stream]

    assert isinstance(summary, Summary)
    assert summary.report.batch_size == 2


async def test_closing_a_stream_leaves_no_task(tokenizer: Tokenizer) -> None:
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=1)
    before = asyncio.all_tasks()

    async with aclosing(generation(backend).batches()) as batches:
        async for batch in batches:
            if isinstance(batch[0], Delta):
                break

    for _ in range(3):
        assert asyncio.all_tasks() == before
        await asyncio.sleep(0)


async def test_two_requests_may_have_the_same_id(tokenizer: Tokenizer) -> None:
    """Callers choose request ids and may repeat them."""
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


async def test_an_engine_whose_steps_nobody_reads_is_not_stalled(tokenizer: Tokenizer) -> None:
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=1)
    request = EngineRequest("r", [1, 2, 3], GREEDY, max_tokens=50, ignore_eos=False)

    async with aclosing(backend.generate(request)) as steps:
        await anext(steps)
        await asyncio.sleep(0.05)
        assert backend.stats().last_step_age == 0

        await anext(steps)
        assert backend.stats().last_step_age < 0.05


async def test_an_engine_without_progress_reports_the_time_since_its_last_step(tokenizer: Tokenizer) -> None:
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=1, faults="stall_at=0")
    request = EngineRequest("r", [1, 2, 3], GREEDY, max_tokens=50, ignore_eos=False)
    task = asyncio.create_task(anext(backend.generate(request)))

    await asyncio.sleep(0.05)

    assert backend.stats().last_step_age >= 0.04
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert backend.stats().last_step_age == 0
