"""Puts a long mixed load on both servers, and samples their memory, threads and descriptors.

Callers of every kind run at the same time: whole and streamed answers over both transports, callers that
leave in the middle, demanded tool calls, schemas, and requests that are refused. The servers pass if their
resident memory in the last minutes is within `MAX_GROWTH` of that after the warm-up.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from benchmarks.servers import Pair, pair
from inference_client import AsyncClient, InferenceError

MODEL = "smollm2-135m-instruct"
WARM_SHARE = 0.25
"""The share of the run that fills caches and pools, and is not compared."""
WINDOW_SHARE = 0.1
"""The share of the run that is compared: right after the warm-up, and at the end."""
MAX_GROWTH = 0.05
SAMPLE_SECONDS = 2.0
CALLERS = 24
PAUSE_SECONDS = 0.15
"""The mean pause of a caller between two requests, in seconds; it keeps the load well below the maximum."""
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


@dataclass(frozen=True, slots=True)
class Sample:
    """The resources of one server at one moment."""

    seconds: float
    resident: int
    threads: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Callers:
    """The clients that all callers share, and the outcomes of their requests."""

    http: httpx.AsyncClient
    grpc: AsyncClient
    outcomes: Counter[str]

    async def rest(self, **body: Any) -> str:
        """Request a whole answer. Return the outcome."""
        reply = await self.http.post("/v1/chat/completions", json={"model": MODEL, **body})
        return str(reply.status_code)

    async def rest_stream(self, leave_after: int | None = None, **body: Any) -> str:
        """Request a stream, and leave it after `leave_after` lines. Return the outcome."""
        request = {"model": MODEL, "stream": True, **body}
        async with self.http.stream("POST", "/v1/chat/completions", json=request) as reply:
            lines = 0
            async for _ in reply.aiter_lines():
                lines += 1
                if lines == leave_after:
                    return "left"
            return str(reply.status_code)

    async def grpc_stream(self, leave_after: int | None = None, **request: Any) -> str:
        """Request a stream over gRPC, and leave it after `leave_after` events. Return the outcome."""
        async with self.grpc.stream(model=MODEL, prompt="Once upon a time", **request) as stream:
            events = 0
            async for _ in stream:
                events += 1
                if events == leave_after:
                    return "left"
        return "ok"

    async def grpc_whole(self, **request: Any) -> str:
        """Request a whole answer over gRPC. Return the outcome."""
        await self.grpc.generate(model=MODEL, prompt="Once upon a time", **request)
        return "ok"


def kinds(callers: Callers) -> list[Callable[[], Awaitable[str]]]:
    """Every kind of request."""
    question = [{"role": "user", "content": "What is the capital of France?"}]
    long = [{"role": "user", "content": "word " * 2000}]
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    return [
        lambda: callers.rest(messages=question, max_tokens=24),
        lambda: callers.rest(messages=question, max_tokens=16, n=3, logprobs=True, top_logprobs=2),
        lambda: callers.rest(messages=long, max_tokens=4),
        lambda: callers.rest(messages=question, response_format=form, max_tokens=64),
        lambda: callers.rest(messages=question, tools=[TOOL], tool_choice="required", max_tokens=96),
        lambda: callers.rest_stream(messages=question, max_tokens=48),
        lambda: callers.rest_stream(leave_after=8, messages=question, max_tokens=400),
        lambda: callers.rest_stream(messages=question, tools=[TOOL], max_tokens=48),
        lambda: callers.grpc_whole(max_tokens=24),
        lambda: callers.grpc_stream(max_tokens=48),
        lambda: callers.grpc_stream(leave_after=4, max_tokens=400),
        lambda: callers.rest(messages=question, temperature=9),
        lambda: callers.rest(messages=[]),
        lambda: callers.rest(messages=[{"role": "user", "content": "word " * 100_000}]),
    ]


def measure(minutes: float, settings: dict[str, str] | None = None) -> bool:
    """Run the load, and print a line a minute and the verdict. Return whether both servers passed."""
    options = {"backend": "simulated", "simulated_decode_tps": "200", "requests_per_minute": "0"}
    with pair(**{**options, **(settings or {})}) as servers:
        samples, outcomes = asyncio.run(_load(servers, minutes * 60))
    print("requests: " + ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items())))
    flat = [_judge(name, rows, minutes * 60) for name, rows in samples.items()]
    return all(flat)


async def _load(servers: Pair, seconds: float) -> tuple[dict[str, list[Sample]], Counter[str]]:
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    async with (
        httpx.AsyncClient(base_url=f"http://{servers.bridge.address}", timeout=60) as http,
        AsyncClient(servers.service.address) as grpc,
    ):
        callers = Callers(http, grpc, outcomes)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_watch(servers, end, outcomes))
            for number in range(CALLERS):
                tasks.create_task(_call(callers, random.Random(number), end))
        return watching.result(), outcomes


async def _call(callers: Callers, dice: random.Random, end: float) -> None:
    ways = kinds(callers)
    while time.monotonic() < end:
        try:
            outcome = await asyncio.wait_for(dice.choice(ways)(), 60)
        except (InferenceError, httpx.HTTPError, TimeoutError) as error:
            outcome = type(error).__name__
        callers.outcomes[outcome] += 1
        await asyncio.sleep(dice.expovariate(1 / PAUSE_SECONDS))


async def _watch(servers: Pair, end: float, outcomes: Counter[str]) -> dict[str, list[Sample]]:
    processes = {"service": psutil.Process(servers.service.pid), "bridge": psutil.Process(servers.bridge.pid)}
    samples: dict[str, list[Sample]] = {name: [] for name in processes}
    began = time.monotonic()
    shown = 0.0
    while time.monotonic() < end:
        now = time.monotonic() - began
        for name, process in processes.items():
            with suppress(psutil.NoSuchProcess):
                rows = Sample(now, process.memory_info().rss, process.num_threads(), process.num_fds())
                samples[name].append(rows)
        if now >= shown:
            shown += 60
            print(f"{now:6.0f} s  {sum(outcomes.values()):7} requests  " + _held(samples), flush=True)
        await asyncio.sleep(SAMPLE_SECONDS)
    return samples


def _held(samples: dict[str, list[Sample]]) -> str:
    return "   ".join(
        f"{name} {rows[-1].resident / 2**20:6.1f} MiB {rows[-1].threads:3} threads "
        f"{rows[-1].descriptors:3} descriptors"
        for name, rows in samples.items()
        if rows
    )


def _judge(name: str, rows: Sequence[Sample], seconds: float) -> bool:
    warm, width = seconds * WARM_SHARE, seconds * WINDOW_SHARE
    early = statistics.median(r.resident for r in rows if warm <= r.seconds < warm + width)
    late = statistics.median(r.resident for r in rows if r.seconds >= seconds - width)
    growth = late / early - 1
    flat = growth <= MAX_GROWTH
    print(
        f"{name}: {early / 2**20:.1f} MiB after {warm / 60:.1f} min, {late / 2**20:.1f} MiB at the end: "
        f"{growth:+.1%}, {'flat' if flat else 'not flat'} (at most {MAX_GROWTH:+.0%})"
    )
    return flat
