"""Tokens a second and time to first token, through both transports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.servers import Pair
from lodestream.bench.command import measure as run_bench

PROMPT_TOKENS = 64
_TIMEOUT_SECONDS = 900

Row = dict[str, Any]


def measure(pair: Pair, concurrencies: Sequence[int], tokens: int) -> list[Row]:
    """Measure each number of streams over each transport, after a warm-up. Return a row for each."""
    urls = {"grpc": f"grpc://{pair.service.address}", "rest": f"http://{pair.bridge.address}"}
    rows = []
    for streams in concurrencies:
        for transport, url in urls.items():
            _round(url, streams, min(tokens, 16), seed=0)
            rows.append(
                {"transport": transport, "streams": streams, **_round(url, streams, tokens, seed=streams)}
            )
    return rows


def _round(url: str, streams: int, tokens: int, seed: int) -> Row:
    """Run all streams at once. The prompts differ, so that no prefix is cached."""
    options = {
        "url": url,
        "concurrency": streams,
        "requests": streams,
        "prompt-tokens": PROMPT_TOKENS,
        "output-tokens": tokens,
        "temperature": 1,
        "seed": seed,
        "timeout": _TIMEOUT_SECONDS,
        # The checkpoint of this test has a small vocabulary.
        "token-ids": "256:900",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    runs, _ = run_bench([*words, "--ignore-eos"])
    figures = runs[0].figures
    if figures["failed"]:
        raise RuntimeError(f"{figures['failed']} of {streams} streams failed: {figures['errors']}")
    first = figures["time_to_first_token_ms"]
    return {
        "tokens_per_second": round(figures["output_token_throughput"], 1),
        "ttft_median_ms": round(first["p50"], 2),
        "ttft_p95_ms": round(first["p95"], 2),
    }
