"""The engine makes no progress, its slots are all taken, and further requests arrive.

Before, the service reported itself as unhealthy but still admitted requests, which hung until their
deadlines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inference_service.rpc.health import State
from tests.support.answers import Answer
from tests.support.transports import Transports, running_transports
from tests.transports.feature_requests import completion

SLOTS = 2
TIMEOUT_SECONDS = 15.0
STUCK = completion("@sim(stall_at=1) hello", max_tokens=8)


async def _until(reached: Callable[[], bool]) -> None:
    for _ in range(int(TIMEOUT_SECONDS / 0.02)):
        if reached():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it was never reached")


async def _reach(transports: Transports, state: State) -> None:
    await _until(lambda: transports.service.server.health.state is state)


async def _ask_over_all_transports(transports: Transports) -> list[Answer]:
    return await asyncio.wait_for(
        asyncio.gather(*[way(completion()) for way in transports.ways]), TIMEOUT_SECONDS
    )


async def test_a_stalled_engine_refuses_new_and_waiting_requests() -> None:
    async with running_transports(stall_timeout=0.5, max_concurrency=SLOTS) as transports:
        stuck = [asyncio.create_task(transports.by_grpc_stream(STUCK)) for _ in range(SLOTS)]
        await _until(lambda: transports.service.loaded.admission.running == SLOTS)
        waited = await _ask_over_all_transports(transports)
        later = await _ask_over_all_transports(transports)
        assert [answer.error for answer in (*waited, *later)] == ["not_ready"] * 8
        reply = await transports.http.post("/v1/completions", json=completion())
        assert (reply.status_code, int(reply.headers["retry-after"])) == (503, 1)

        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        await _reach(transports, State.READY)
        assert [answer.error for answer in await _ask_over_all_transports(transports)] == [None] * 4


async def test_a_dead_engine_refuses_requests_at_once() -> None:
    async with running_transports(max_concurrency=1) as transports:
        dying = asyncio.create_task(transports.by_grpc(completion("@sim(die_at=2) hello")))
        waiting = [asyncio.create_task(transports.by_rest(completion())) for _ in range(3)]
        answers = await asyncio.wait_for(asyncio.gather(dying, *waiting), TIMEOUT_SECONDS)
        await _reach(transports, State.DEAD)
        later = await _ask_over_all_transports(transports)

    assert {answer.error for answer in (*answers[:1], *later)} == {"not_ready"}
    assert {answer.error for answer in answers[1:]} <= {"not_ready", None}
