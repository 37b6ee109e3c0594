"""The doorbell: callbacks of threads, run in the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from inference_service.backends.llama_cpp.request import LoopWaker

THREADS = 8
RINGS = 2000


@pytest.fixture
async def doorbell() -> AsyncIterator[LoopWaker]:
    bell = LoopWaker()
    yield bell
    bell.close()


async def in_thread(work: threading.Thread) -> None:
    work.start()
    await asyncio.to_thread(work.join)


async def test_runs_in_the_thread_of_the_loop(doorbell: LoopWaker) -> None:
    ran: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def callback() -> None:
        ran.set_result(threading.get_ident())

    await in_thread(threading.Thread(target=doorbell.ring, args=(callback,)))

    assert await asyncio.wait_for(ran, 5) == threading.get_ident()


async def test_loses_nothing_and_keeps_the_order_of_each_thread(doorbell: LoopWaker) -> None:
    heard: dict[int, list[int]] = {number: [] for number in range(THREADS)}
    done = asyncio.Event()

    def take(number: int, ring: int) -> None:
        heard[number].append(ring)
        if all(len(rings) == RINGS for rings in heard.values()):
            done.set()

    def ring_often(number: int) -> None:
        for ring in range(RINGS):
            assert doorbell.ring(lambda ring=ring: take(number, ring))  # type: ignore[misc]

    threads = [threading.Thread(target=ring_often, args=(number,)) for number in heard]
    for thread in threads:
        thread.start()
    await asyncio.wait_for(done.wait(), 30)
    for thread in threads:
        thread.join()

    assert all(rings == list(range(RINGS)) for rings in heard.values())


async def test_a_callback_that_fails_takes_no_other_with_it(doorbell: LoopWaker) -> None:
    loop = asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _, context: failures.append(context.get("exception")))
    ran = asyncio.Event()
    error = RuntimeError("one of many")

    def fail() -> None:
        raise error

    doorbell.ring(fail)
    doorbell.ring(ran.set)
    await asyncio.wait_for(ran.wait(), 5)

    assert failures == [error]


async def test_closing_answers_what_rang_before(doorbell: LoopWaker) -> None:
    ran: list[str] = []
    doorbell.ring(lambda: ran.append("before"))

    doorbell.close()
    doorbell.close()

    assert ran == ["before"]
    assert not doorbell.ring(lambda: ran.append("after"))
    await asyncio.sleep(0)
    assert ran == ["before"]


def test_nobody_is_told_once_the_loop_is_gone() -> None:
    async def leave() -> LoopWaker:
        bell = LoopWaker()
        bell.close()
        return bell

    assert not asyncio.run(leave()).ring(lambda: None)
