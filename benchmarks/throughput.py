"""Tokens a second and time to first token: through REST, beside the same engine library in-process."""

from __future__ import annotations

import random
from statistics import median
from typing import Any

from benchmarks.inprocess import Yardstick, yardstick
from benchmarks.rest_load import run
from benchmarks.servers import Pair, pair
from inference_service.config import cache_home
from inference_service.models import store

CONTEXT = 512
PREFILL_CHUNK = 16
TOKENS = 64
PROMPT_TOKENS = 24


def prompts(count: int) -> list[list[int]]:
    """Prompts that share no prefix, so that nothing is cached; ordinary tokens only."""
    return [[random.randrange(300, 40_000) for _ in range(PROMPT_TOKENS)] for _ in range(count)]


def bodies(asked: list[list[int]], tokens: int, model: str) -> list[dict[str, Any]]:
    common = {"model": model, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    return [{**common, "prompt": prompt} for prompt in asked]


def measure(concurrencies: list[int], rounds: int) -> None:
    """Print a table of the medians over `rounds` pairs of runs."""
    model = store.resolve("smollm2-135m-instruct", cache_home(), show_progress=True)
    print("| streams | in-process tok/s | REST tok/s | ratio | added TTFT ms |\n|---|---|---|---|---|")
    for streams in concurrencies:
        settings = {
            "max_concurrency": str(streams),
            "context_length": str(CONTEXT),
            "prefill_chunk": str(PREFILL_CHUNK),
        }
        with (
            yardstick(str(model.path), streams, CONTEXT, PREFILL_CHUNK) as inside,
            pair(**settings) as servers,
        ):
            _row(inside, servers, model.id, streams, rounds)


def _row(inside: Yardstick, servers: Pair, model: str, streams: int, rounds: int) -> None:
    _round(inside, servers, model, streams)
    results = [_round(inside, servers, model, streams) for _ in range(rounds)]
    direct, rest, added = (median(r[column] for r in results) for column in range(3))
    ratio = median(r[1] / r[0] for r in results)
    print(f"| {streams} | {direct:.1f} | {rest:.1f} | {ratio:.3f} | {added * 1e3:.1f} |", flush=True)


def _round(inside: Yardstick, servers: Pair, model: str, streams: int) -> tuple[float, float, float]:
    """One pair of runs, in random order: tokens a second in-process and through REST, added TTFT."""
    asked = prompts(streams)

    def direct() -> tuple[float, list[float]]:
        result = inside.run(asked, TOKENS)
        return result.tokens_per_second, result.first_token_seconds

    def rest() -> tuple[float, list[float]]:
        return run(servers.bridge.address, bodies(asked, TOKENS, model))

    if random.random() < 0.5:
        one, other = direct(), rest()
    else:
        other, one = rest(), direct()
    return one[0], other[0], median(other[1]) - median(one[1])
