"""Every slot is taken by requests that the engine makes no progress with, and more keep coming.

Before, health said so, but requests were still admitted, and hung until their own deadlines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inference_service.rpc.health import State
from tests.support.answers import Answer
from tests.support.transports import Transports, running_transports
from tests.transports.asked import completion

SLOTS = 2
PATIENCE = 15.0
STUCK = completion("@sim(stall_at=1) hello", max_tokens=8)


async def _until(reached: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE / 0.02)):
        if reached():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it was never reached")


async def _reach(transports: Transports, state: State) -> None:
    await _until(lambda: transports.service.server.health.state is state)


async def _ask_in_all_ways(transports: Transports) -> list[Answer]:
    return await asyncio.wait_for(asyncio.gather(*[way(completion()) for way in transports.ways]), PATIENCE)


async def test_a_stalled_service_answers_at_once_and_those_who_wait() -> None:
    async with running_transports(stall_timeout=0.5, max_concurrency=SLOTS) as transports:
        stuck = [asyncio.create_task(transports.by_grpc_stream(STUCK)) for _ in range(SLOTS)]
        await _until(lambda: transports.service.loaded.admission.running == SLOTS)
        waited = await _ask_in_all_ways(transports)
        later = await _ask_in_all_ways(transports)
        assert [answer.error for answer in (*waited, *later)] == ["not_ready"] * 8
        reply = await transports.http.post("/v1/completions", json=completion())
        assert (reply.status_code, int(reply.headers["retry-after"])) == (503, 1)

        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        await _reach(transports, State.READY)
        assert [answer.error for answer in await _ask_in_all_ways(transports)] == [None] * 4


async def test_a_dead_engine_is_told_at_once() -> None:
    async with running_transports(max_concurrency=1) as transports:
        dying = asyncio.create_task(transports.by_grpc(completion("@sim(die_at=2) hello")))
        waiting = [asyncio.create_task(transports.by_rest(completion())) for _ in range(3)]
        answers = await asyncio.wait_for(asyncio.gather(dying, *waiting), PATIENCE)
        await _reach(transports, State.DEAD)
        later = await _ask_in_all_ways(transports)

    assert {answer.error for answer in (*answers[:1], *later)} == {"not_ready"}
    assert {answer.error for answer in answers[1:]} <= {"not_ready", None}
