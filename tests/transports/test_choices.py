"""Several choices of one request over both transports: cancellation, usage, seeds and deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest

from inference_client import Delta
from tests.support.answers import join_chunks, read_generation, read_reply
from tests.support.transports import Transports, grpc_request, running_transports
from tests.transports.feature_requests import completion

CHOICES = 4
LONG = completion("tell me " * 10, n=CHOICES, max_tokens=400, ignore_eos=True)


async def leave_grpc(transports: Transports) -> None:
    stream = transports.client.stream_request(grpc_request(LONG))
    await anext(stream)
    await _until(transports, CHOICES)
    seen: set[int] = set()
    while len(seen) < transports.service.loaded.backend.stats().running:
        event = await anext(stream)
        seen |= {event.choice_index} if isinstance(event, Delta) else set()
    await stream.aclose()


async def leave_rest(transports: Transports) -> None:
    async with transports.http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as reply:
        async for line in reply.aiter_lines():
            if line and _running(transports) == CHOICES:
                break


async def leave_grpc_plain(transports: Transports) -> None:
    await _cancel(transports, transports.by_grpc(LONG))


async def leave_rest_plain(transports: Transports) -> None:
    await _cancel(transports, transports.by_rest(LONG))


async def _cancel(transports: Transports, asking: Awaitable[object]) -> None:
    task = asyncio.ensure_future(asking)
    await _until(transports, CHOICES)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


LEAVES = [leave_grpc, leave_rest, leave_grpc_plain, leave_rest_plain]


@pytest.fixture(params=["simulated", "llama_cpp", "tensorrt_llm"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "tensorrt_llm":
        engine: dict[str, Any] = request.getfixturevalue("serve_engine")(tps=100)
        return engine
    return {"backend": request.param, "threads": 1, "simulated_decode_tps": 100}


async def test_a_disconnect_cancels_all_choices(settings: dict[str, Any]) -> None:
    """No choice of a disconnected caller keeps a slot or a place in the queue."""
    async with running_transports(**settings) as transports:
        tasks = 0
        for leave in LEAVES:
            await leave(transports)
            left = time.monotonic()
            await _until(transports, 0)
            print(f"{leave.__name__}: all free after {(time.monotonic() - left) * 1e3:.0f} ms")
            tasks = tasks or len(asyncio.all_tasks())

        assert (await transports.by_rest(completion(n=2, max_tokens=2))).error is None
        await asyncio.sleep(0.2)
        assert len(asyncio.all_tasks()) <= tasks


async def test_a_disconnect_cancels_waiting_choices() -> None:
    """Two choices run and two wait for a slot."""
    async with running_transports(simulated_decode_tps=100, max_concurrency=2) as transports:
        for leave in LEAVES:
            await leave(transports)
            await _until(transports, 0)


async def test_usage_counts_a_prompt_once_and_every_choice(settings: dict[str, Any]) -> None:
    async with running_transports(**settings) as transports:
        for ask in transports.ways:
            one = await ask(completion(max_tokens=3, ignore_eos=True))
            four = await ask(completion(max_tokens=3, ignore_eos=True, n=CHOICES))
            two_prompts = await ask(completion(["Once upon a time"] * 2, max_tokens=3, ignore_eos=True))
            assert one.usage is not None
            prompt, generated = one.usage
            assert (prompt > 0, generated) == (True, 3)
            assert four.usage == (prompt, generated * CHOICES)
            assert two_prompts.usage == (prompt * 2, generated * 2)


async def test_every_choice_has_its_own_seed(settings: dict[str, Any]) -> None:
    """The first choice equals a request for one choice; the others differ from it and from each other."""
    async with running_transports(**settings) as transports:
        body = completion(temperature=2, top_p=1, max_tokens=6)
        alone = await transports.by_rest(body)
        choices = (await transports.by_rest({**body, "n": CHOICES})).choices

    assert choices[0].token_ids == alone.token_ids
    assert len({choice.token_ids for choice in choices}) == CHOICES


async def test_a_deadline_ends_every_choice_with_its_tokens_so_far(settings: dict[str, Any]) -> None:
    if settings["backend"] == "llama_cpp":
        pytest.skip("deadlines are the service's own, whatever the engine")
    body = completion("@sim(stall_at=3)", n=2, stream_options={"include_usage": True})
    message, path, headers = grpc_request(body), "/v1/completions", {"x-request-timeout": "3"}
    async with running_transports(**{"max_concurrency": 8, **settings}) as transports:
        generation, streamed, reply, chunks = await asyncio.gather(
            transports.client.generate_request(message, timeout=3),
            transports.client.stream_request(message, timeout=3).collect(),
            transports.http.post(path, json=body, headers=headers),
            transports.http.post(path, json={**body, "stream": True}, headers=headers),
        )

    answers = [
        read_generation(generation, body),
        read_generation(streamed, body),
        read_reply(reply.json(), body),
        join_chunks([line for line in chunks.text.splitlines() if line], body),
    ]
    for choice in [choice for answer in answers for choice in answer.choices]:
        assert (choice.finish_reason, choice.ending) == ("length", ("deadline", None, None))
        assert len(choice.text) > 2
    assert [len(answer.choices) for answer in answers] == [2] * 4


def _running(transports: Transports) -> int:
    """The number of choices that have a slot or wait for one."""
    loaded = transports.service.loaded
    return max(loaded.backend.stats().running, loaded.admission.running) + loaded.admission.waiting


async def _until(transports: Transports, count: int) -> None:
    """Wait until `count` choices run or wait; with 0, until no call is left either."""
    end = time.monotonic() + 10
    while _running(transports) != count or (not count and len(transports.service.server.calls)):
        assert time.monotonic() < end, f"{_running(transports)} choices run or wait instead of {count}"
        await asyncio.sleep(0.002)
