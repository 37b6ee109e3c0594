"""Runs both servers on one engine as processes, and sends the same requests over both transports."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.servers import Pair, server
from inference_client import AsyncClient, StopCause
from tests.support.transports import Answer, Callers, grpc_request

SLOTS = 4
_START_SECONDS = 900.0
_CHECK_SECONDS = 180.0
_LONG = 4000
"""The tokens of an answer that is cancelled."""


@contextmanager
def serving(engine: Path, logs: Path, **settings: str) -> Iterator[Pair]:
    """Run `lodestream serve --engine` and `lodestream bridge` until the context ends.

    Raises:
        SystemExit: one of them did not become ready; its log has the reason.

    """
    logs.mkdir(parents=True, exist_ok=True)
    common = {"keys_file": str(logs / "keys.json"), "log_level": "warning"}
    with ExitStack() as stack:
        own = {"engine": str(engine), "grpc_address": "127.0.0.1:0", **common, **settings}
        service = stack.enter_context(
            server("serve", logs, own, log=logs / "serve.log", timeout=_START_SECONDS)
        )
        other = {"http_address": "127.0.0.1:0", "grpc_address": service.address, **common}
        bridge = stack.enter_context(server("bridge", logs, other, log=logs / "bridge.log"))
        yield Pair(service, bridge)


async def check_all(pair: Pair) -> dict[str, str]:
    """Run all checks. Return check → `ok`, perhaps with a figure, or the traceback."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncClient(pair.service.address, retries=0))
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{pair.bridge.address}", timeout=_CHECK_SECONDS)
        )
        model = (await client.list_models())[0].id
        checks = Checks(Callers(client, http), model)
        return {name: await _outcome(getattr(checks, name)) for name in NAMES}


async def _outcome(check: Any) -> str:
    try:
        return str(await asyncio.wait_for(check(), _CHECK_SECONDS))
    except Exception:
        return traceback.format_exc(limit=-3)


class Checks:
    """The checks: every public method returns `ok`, perhaps with a figure, or raises."""

    def __init__(self, callers: Callers, model: str) -> None:
        self._callers = callers
        self._body: dict[str, Any] = {
            "model": model,
            "prompt": "Once upon a time",
            "temperature": 0,
            "ignore_eos": True,
            "max_tokens": 24,
        }

    async def answers_are_equal_over_both_transports(self) -> str:
        """Compare chats and completions, whole and streamed; the client checks the order of events."""
        messages = [{"role": "user", "content": "What is the capital of France? 😀"}]
        chat = {**self._body, "messages": messages}
        del chat["prompt"]
        for body in (self._body, chat):
            answers = [await ask(body) for ask in self._callers.ways]
            _same(answers)
        return "ok"

    async def max_tokens_is_exact(self) -> str:
        for count in (1, 2, 33, 500):
            for ask in self._ways:
                answer = await ask({**self._body, "max_tokens": count})
                assert (answer.usage or (0, 0))[1] == count, answer
                assert answer.finish_reason == "length", answer
        return "ok"

    async def stop_token_ends_the_answer(self) -> str:
        ids = (await self._callers.by_grpc(self._body)).token_ids or ()
        stop = ids[5]
        body = {**self._body, "stop_token_ids": [stop]}
        answers = [_without_usage(await ask(body)) for ask in self._ways]
        _same(answers)
        assert answers[0].finish_reason == "stop", answers[0]
        before = ids[: ids.index(stop)]
        assert answers[0].token_ids in (before, (*before, stop)), answers[0]
        return "ok"

    async def stop_sequence_ends_the_answer(self) -> str:
        text = (await self._callers.by_grpc(self._body)).text or ""
        stop = text[len(text) // 2 :][:2]
        assert stop, "the answer has no text"
        answers = [_without_usage(await ask({**self._body, "stop": [stop]})) for ask in self._ways]
        _same(answers)
        assert answers[0].text == text.partition(stop)[0], answers[0]
        return "ok"

    async def every_sampling_parameter_is_taken(self) -> str:
        values = {
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "frequency_penalty": 0.5,
            "presence_penalty": 0.5,
            "repetition_penalty": 1.1,
            "seed": 2**63 - 1,
        }
        for name, value in values.items():
            for ask in self._ways:
                answer = await ask({**self._body, "temperature": 1.0, name: value})
                assert answer.error is None, f"{name}: {answer}"
        return "ok"

    async def seed_decides(self) -> str:
        bodies = [{**self._body, "temperature": 1.5, "seed": seed} for seed in (7, 7, 8)]
        first, again, other = [(await self._callers.by_grpc(body)).token_ids for body in bodies]
        assert first == again, "the same seed gave two answers"
        assert first != other, "two seeds gave the same answer"
        return "ok"

    async def values_out_of_range_are_refused(self) -> str:
        reply = await self._callers.by_rest({**self._body, "top_k": 1025})
        assert (reply.error, reply.param) == ("invalid_value", "top_k"), reply
        long = {**self._body, "prompt": [65] * 9000}
        answers = [await ask(long) for ask in self._ways]
        assert {answer.error for answer in answers} == {"context_length_exceeded"}, answers
        return "ok"

    async def cancelled_calls_free_their_slots(self) -> str:
        body = grpc_request({**self._body, "max_tokens": _LONG})
        streams = [self._callers.client.stream_request(body) for _ in range(SLOTS)]
        for stream in streams:
            await anext(stream)
        refused = await self._callers.by_grpc(self._body)
        assert refused.error == "queue_full", refused
        for stream in streams:
            await stream.aclose()
        return await self._freed()

    async def hung_up_connections_free_their_slots(self) -> str:
        async with AsyncExitStack() as stack:
            # httpx closes the connection of an iterator that is garbage-collected, so all are kept.
            streams = [await stack.enter_async_context(self._rest_lines()) for _ in range(SLOTS)]
            for lines in streams:
                await anext(lines)
            refused = await self._callers.by_rest(self._body)
            assert refused.error == "queue_full", refused
        return await self._freed()

    async def deadline_ends_the_answer(self) -> str:
        begun = time.monotonic()
        request = grpc_request({**self._body, "max_tokens": _LONG})
        generation = await self._callers.client.generate_request(request, timeout=0.5)
        seconds = time.monotonic() - begun
        finished = generation.choices[0].finished
        assert finished.cause is StopCause.DEADLINE, (finished, generation.usage, seconds)
        return f"ok: {generation.usage.completion_tokens} tokens in {seconds:.2f} of 0.50 s"

    @property
    def _ways(self) -> tuple[Any, Any, Any]:
        return self._callers.by_grpc, self._callers.by_rest, self._callers.by_stream

    @asynccontextmanager
    async def _rest_lines(self) -> AsyncIterator[AsyncIterator[str]]:
        body = {**self._body, "max_tokens": _LONG, "stream": True}
        async with self._callers.http.stream("POST", "/v1/completions", json=body) as reply:
            assert reply.status_code == 200, await reply.aread()
            yield reply.aiter_lines()

    async def _freed(self) -> str:
        """Fill all slots again, as soon as they are free."""
        begun = time.monotonic()
        while True:
            requests = (self._callers.by_grpc({**self._body, "max_tokens": 1}) for _ in range(SLOTS))
            if all(answer.error is None for answer in await asyncio.gather(*requests)):
                return f"ok: {SLOTS} slots were free after at most {time.monotonic() - begun:.3f} s"
            assert time.monotonic() - begun < 5, "the slots were not free 5 s later"
            await asyncio.sleep(0.02)


NAMES = [name for name in vars(Checks) if not name.startswith("_")]


def _without_usage(answer: Answer) -> Answer:
    """The answer without usage: the engine may generate more tokens until the service finds a stop."""
    return replace(answer, usage=None)


def _same(answers: list[Answer]) -> None:
    assert answers[0].error is None, answers[0]
    assert all(answer == answers[0] for answer in answers), answers
