"""Measures what metrics and receipts cost: one load in turns on servers with and without them."""

from __future__ import annotations

import psutil

from benchmarks.servers import Pair, pair
from lodestream.bench.command import measure as run_load
from lodestream.bench.figures import compare

REQUESTS = 200
LOAD = ["--concurrency", "16", "--requests", str(REQUESTS), "--prompt-tokens", "64", "--ignore-eos"]
SHAPES = {
    "streamed, 64 tokens": ["--output-tokens", "64"],
    "plain, 1 token": ["--output-tokens", "1", "--no-stream"],
}
ENGINE = {"backend": "simulated", "model": "smollm2-135m-instruct", "max_concurrency": "16"}


def measure(rounds: int) -> None:
    """Print the ratios, with over without, of CPU a request and of tokens a second, with 95 % intervals."""
    with (
        pair(metrics_address="127.0.0.1:0", **ENGINE) as counted,
        pair(metrics="false", receipts_url="off", **ENGINE) as bare,
    ):
        print("| load | figure | with | without | ratio | 95 % |\n|---|---|---|---|---|---|")
        for name, shape in SHAPES.items():
            _measure(name, shape, counted, bare, rounds)


def _measure(name: str, shape: list[str], counted: Pair, bare: Pair, rounds: int) -> None:
    """Print the lines of one load, after one round that does not count."""
    runs: dict[Pair, list[tuple[float, float]]] = {counted: [], bare: []}
    for number in range(rounds + 1):
        for one in (counted, bare) if number % 2 else (bare, counted):
            figures = _run(one, shape)
            if number:
                runs[one].append(figures)
    for place, figure in enumerate(("CPU ms a request, both servers", "output tokens/s")):
        ours, theirs = ([figures[place] for figures in runs[one]] for one in (counted, bare))
        means = [f"{sum(values) / rounds:.4g}" for values in (ours, theirs)]
        ratio = compare(ours, theirs)
        assert ratio is not None, f"{name}: a round without a figure"
        cells = [name, figure, *means, f"{ratio.value:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def _run(one: Pair, shape: list[str]) -> tuple[float, float]:
    """Run the load; CPU milliseconds a request and output tokens a second."""
    before = _cpu_seconds(one)
    (run,), _ = run_load([*LOAD, *shape, "--url", f"http://{one.bridge.address}"])
    return (_cpu_seconds(one) - before) / REQUESTS * 1e3, run.figures["output_token_throughput"]


def _cpu_seconds(one: Pair) -> float:
    times = [psutil.Process(server.pid).cpu_times() for server in (one.service, one.bridge)]
    return sum(time.user + time.system for time in times)
