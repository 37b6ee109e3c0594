from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from inference_service.backends.llama_cpp.request import PrefillScheduler


@dataclass(eq=False)
class Request:
    prefill_left: int
    has_begun: bool = False


class Queue:
    """Requests to a scheduler, each in its own task."""

    def __init__(self, *, slots: int = 4, batch: int = 19) -> None:
        self.scheduler: PrefillScheduler[Request] = PrefillScheduler(slots=slots, batch_tokens=batch)
        self.tasks: list[asyncio.Task[None]] = []

    async def add(self, *lengths: int) -> list[Request]:
        requests = [Request(length) for length in lengths]
        self.tasks += [asyncio.create_task(self.scheduler.enter(r)) for r in requests]
        await asyncio.sleep(0)
        return requests

    def progress(self, request: Request, left: int) -> None:
        request.prefill_left, request.has_begun = left, True
        self.scheduler.advance()

    def inside(self, *requests: Request) -> list[bool]:
        return [r in self.scheduler.inside for r in requests]

    async def end(self) -> None:
        self.scheduler.refuse_all(RuntimeError("over"))
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_prompts_that_fit_one_step_start_together() -> None:
    queue = Queue()

    entered = await queue.add(5, 5, 7, 1)

    assert queue.inside(*entered) == [True, True, True, False], "19 a step, less one for each inside"
    await queue.end()


async def test_a_long_prompt_starts_alone_and_others_wait() -> None:
    queue = Queue()
    long, short = await queue.add(1_000, 2)
    assert queue.inside(long, short) == [True, False]

    queue.progress(long, 1_000)
    queue.progress(long, 35)
    assert queue.inside(short) == [False], "18 are read now, 17 with the next step: too many beside 2"

    queue.progress(long, 34)
    assert queue.inside(short) == [True]
    await queue.end()


async def test_a_long_prompt_does_not_join_one_that_the_engine_has_not_started() -> None:
    """The engine might process the long prompt first and starve the other."""
    queue = Queue()

    short, long = await queue.add(3, 1_000)
    assert queue.inside(short, long) == [True, False]

    queue.progress(short, 3)
    assert queue.inside(long) == [True]
    await queue.end()


async def test_prompts_start_in_order_of_arrival() -> None:
    queue = Queue()

    long, second, third = await queue.add(17, 1_000, 1)
    queue.progress(long, 0)

    assert queue.inside(second, third) == [True, False]
    await queue.end()


async def test_a_slot_is_free_when_the_engine_has_ended_the_request() -> None:
    queue = Queue(slots=1)
    first, second = await queue.add(4, 4)
    queue.progress(first, 0)
    assert queue.inside(second) == [False]

    queue.scheduler.leave(first)

    assert queue.inside(first, second) == [False, True]
    await queue.end()


async def test_a_cancelled_wait_lets_the_next_request_start() -> None:
    queue = Queue(slots=1)
    first, second, third = await queue.add(4, 4, 4)

    queue.tasks[1].cancel()
    await asyncio.gather(queue.tasks[1], return_exceptions=True)
    queue.scheduler.leave(first)

    assert queue.inside(second, third) == [False, True]
    await queue.end()


async def test_a_turn_that_coincides_with_a_cancellation_is_passed_on() -> None:
    queue = Queue(slots=1)
    first, second, third = await queue.add(4, 4, 4)

    queue.scheduler.leave(first)
    queue.tasks[1].cancel()
    await asyncio.gather(queue.tasks[1], return_exceptions=True)

    assert queue.inside(second, third) == [False, True]
    await queue.end()


async def test_a_refusal_reaches_all_waiting_requests() -> None:
    queue = Queue(slots=1)
    await queue.add(4, 4, 4)

    queue.scheduler.refuse_all(RuntimeError("closed"))

    await queue.tasks[0]
    for task in queue.tasks[1:]:
        with pytest.raises(RuntimeError, match="closed"):
            await task
