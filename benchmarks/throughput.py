"""Tokens a second and time to first token: through REST, beside the same engine library in-process.

And beside `bare`: two processes with gRPC between them that do nothing but pass on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.bare import BareRelay, bare_relay
from benchmarks.engine import EngineArguments, Result
from benchmarks.inprocess import Yardstick, yardstick
from benchmarks.rest_load import run
from benchmarks.servers import Pair, pair
from inference_service.config import ServiceConfig, cache_home
from inference_service.models import loader

CONTEXT = 512
_PREFILL_CHUNK: int = ServiceConfig.model_fields["prefill_chunk"].default
TOKENS = 64
PROMPT_TOKENS = 24


def prompts(count: int) -> list[list[int]]:
    """Prompts that share no prefix, so that nothing is cached; ordinary tokens only."""
    return [[random.randrange(300, 40_000) for _ in range(PROMPT_TOKENS)] for _ in range(count)]


def bodies(asked: list[list[int]], tokens: int, model: str) -> list[dict[str, Any]]:
    common = {"model": model, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    return [{**common, "prompt": prompt} for prompt in asked]


def measure(concurrencies: list[int], rounds: int, threads: int) -> None:
    """Print a table of the medians over `rounds` rounds. Ratios are to in-process, of the same round.

    Args:
        concurrencies: streams at once, one row each.
        rounds: runs of each contestant.
        threads: of each engine; 0 is one for each core, which leaves none to the servers.

    """
    model = loader.resolve("smollm2-135m-instruct", cache_home(), show_progress=True)
    print("| streams | in-process tok/s | bare gRPC | ratio | REST | ratio | added TTFT ms |")
    print("|---|---|---|---|---|---|---|")
    for streams in concurrencies:
        settings = {
            "max_concurrency": str(streams),
            "context_length": str(CONTEXT),
            "threads": str(threads),
        }
        engine = EngineArguments(str(model.path), streams, CONTEXT, _PREFILL_CHUNK, threads)
        with yardstick(engine) as inside, bare_relay(engine) as bare, pair(**settings) as servers:
            _row(Contestants(inside, bare, servers, model.id), streams, rounds)


Run = tuple[float, float]
"""Tokens a second of all streams together, and the median of their seconds to the first token."""


@dataclass(frozen=True, slots=True)
class Contestants:
    """Three ways to the same engine library, each with a loaded engine of its own."""

    inside: Yardstick
    bare: BareRelay
    servers: Pair
    model: str

    def round(self, streams: int) -> dict[str, Run]:
        """Run each once, in random order, with the same prompts."""
        asked = prompts(streams)
        ways: dict[str, Callable[[], Run]] = {
            "inside": lambda: _shown(self.inside.run(asked, TOKENS)),
            "bare": lambda: _shown(self.bare.run(asked, TOKENS)),
            "rest": lambda: self._rest(asked),
        }
        return {way: ways[way]() for way in random.sample(list(ways), len(ways))}

    def _rest(self, asked: list[list[int]]) -> Run:
        speed, first = run(self.servers.bridge.address, bodies(asked, TOKENS, self.model))
        return speed, median(first)


def _shown(result: Result) -> Run:
    return result.tokens_per_second, median(result.first_token_seconds)


def _row(contestants: Contestants, streams: int, rounds: int) -> None:
    contestants.round(streams)
    results = [contestants.round(streams) for _ in range(rounds)]

    def speed(way: str) -> str:
        return f"{median(result[way][0] for result in results):.1f}"

    def ratio(way: str) -> str:
        return f"{median(result[way][0] / result['inside'][0] for result in results):.3f}"

    added = median(result["rest"][1] - result["inside"][1] for result in results) * 1e3
    cells = [speed("inside"), speed("bare"), ratio("bare"), speed("rest"), ratio("rest"), f"{added:.1f}"]
    print(f"| {streams} | {' | '.join(cells)} |", flush=True)
