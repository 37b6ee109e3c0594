"""Tokens a second and time to first token, through both transports."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks import rest_load
from benchmarks.servers import Pair
from inference_client import AsyncClient, Delta, Summary
from tests.support.transports import grpc_request

PROMPT_TOKENS = 64
_ROUND_SECONDS = 900.0

Row = dict[str, Any]


def measure(pair: Pair, concurrencies: Sequence[int], tokens: int) -> list[Row]:
    """One row for each number of streams and door; a warm-up goes before each."""
    model = asyncio.run(_model(pair.service.address))
    rows = []
    for streams in concurrencies:
        for door in ("grpc", "rest"):
            _round(pair, door, _bodies(streams, model, min(tokens, 16)))
            rows.append(
                {"door": door, "streams": streams, **_round(pair, door, _bodies(streams, model, tokens))}
            )
    return rows


async def _model(address: str) -> str:
    async with AsyncClient(address, retries=0) as client:
        return (await client.list_models())[0].id


def _bodies(streams: int, model: str, tokens: int) -> list[dict[str, Any]]:
    """Prompts that share nothing, so that nothing is cached."""
    common = {"model": model, "max_tokens": tokens, "ignore_eos": True, "temperature": 1.0, "top_p": 1.0}
    return [
        {**common, "prompt": [random.randrange(256, 900) for _ in range(PROMPT_TOKENS)]}
        for _ in range(streams)
    ]


def _round(pair: Pair, door: str, bodies: list[dict[str, Any]]) -> Row:
    if door == "rest":
        speed, first = rest_load.run(pair.bridge.address, bodies, patience=_ROUND_SECONDS)
    else:
        speed, first = asyncio.run(asyncio.wait_for(_by_grpc(pair.service.address, bodies), _ROUND_SECONDS))
    ordered = sorted(first)
    return {
        "tokens_per_second": round(speed, 1),
        "ttft_median_ms": round(median(ordered) * 1e3, 2),
        "ttft_p95_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] * 1e3, 2),
    }


async def _by_grpc(address: str, bodies: list[dict[str, Any]]) -> tuple[float, list[float]]:
    async with AsyncClient(address, retries=0) as client:
        await client.health()
        begun = time.perf_counter()
        streams = await asyncio.gather(*(_stream(client, body, begun) for body in bodies))
        seconds = time.perf_counter() - begun
    return sum(tokens for tokens, _ in streams) / seconds, [first for _, first in streams]


async def _stream(client: AsyncClient, body: dict[str, Any], begun: float) -> tuple[int, float]:
    tokens, first = 0, 0.0
    async for event in client.stream_request(grpc_request(body)):
        if isinstance(event, Delta) and not first:
            first = time.perf_counter() - begun
        elif isinstance(event, Summary):
            tokens = event.usage.completion_tokens
    return tokens, first
