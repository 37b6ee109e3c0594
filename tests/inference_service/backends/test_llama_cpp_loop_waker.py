"""The loop waker runs callbacks of other threads in the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from inference_service.backends.llama_cpp.request import LoopWaker

THREADS = 8
CALLBACKS = 2000


@pytest.fixture
async def waker() -> AsyncIterator[LoopWaker]:
    waker = LoopWaker()
    yield waker
    waker.close()


async def in_thread(work: threading.Thread) -> None:
    work.start()
    await asyncio.to_thread(work.join)


async def test_callbacks_run_in_the_thread_of_the_loop(waker: LoopWaker) -> None:
    ran: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def callback() -> None:
        ran.set_result(threading.get_ident())

    await in_thread(threading.Thread(target=waker.schedule, args=(callback,)))

    assert await asyncio.wait_for(ran, 5) == threading.get_ident()


async def test_every_callback_runs_in_the_order_of_its_thread(waker: LoopWaker) -> None:
    received: dict[int, list[int]] = {number: [] for number in range(THREADS)}
    done = asyncio.Event()

    def take(number: int, value: int) -> None:
        received[number].append(value)
        if all(len(values) == CALLBACKS for values in received.values()):
            done.set()

    def schedule_often(number: int) -> None:
        for value in range(CALLBACKS):
            assert waker.schedule(lambda value=value: take(number, value))  # type: ignore[misc]

    threads = [threading.Thread(target=schedule_often, args=(number,)) for number in received]
    for thread in threads:
        thread.start()
    await asyncio.wait_for(done.wait(), 30)
    for thread in threads:
        thread.join()

    assert all(values == list(range(CALLBACKS)) for values in received.values())


async def test_a_failing_callback_does_not_stop_the_others(waker: LoopWaker) -> None:
    loop = asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _, context: failures.append(context.get("exception")))
    ran = asyncio.Event()
    error = RuntimeError("one of many")

    def fail() -> None:
        raise error

    waker.schedule(fail)
    waker.schedule(ran.set)
    await asyncio.wait_for(ran.wait(), 5)

    assert failures == [error]


async def test_closing_runs_the_callbacks_that_were_scheduled_before(waker: LoopWaker) -> None:
    ran: list[str] = []
    waker.schedule(lambda: ran.append("before"))

    waker.close()
    waker.close()

    assert ran == ["before"]
    assert not waker.schedule(lambda: ran.append("after"))
    await asyncio.sleep(0)
    assert ran == ["before"]


def test_a_callback_is_dropped_after_the_loop_was_closed() -> None:
    async def leave() -> LoopWaker:
        waker = LoopWaker()
        waker.close()
        return waker

    assert not asyncio.run(leave()).schedule(lambda: None)
