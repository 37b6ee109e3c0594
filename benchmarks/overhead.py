"""Measures what metrics and receipts cost: one load in turns on servers with and without them."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

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
TURNS = (0, 1, 1, 0, 0, 1, 1, 0)
"""The pair that has the load, turn by turn."""
FIGURES = ("CPU ms a request, both servers", "output tokens/s")

Figures = tuple[float, float]


def measure(rounds: int) -> None:
    """Print the ratios, with over without, of CPU a request and of tokens a second, with 95 % intervals.

    Each round has processes of its own: two processes of one program can differ by some percent all their
    life.
    """
    with_them: dict[str, list[Figures]] = defaultdict(list)
    without: dict[str, list[Figures]] = defaultdict(list)
    for number in range(rounds):
        with (
            pair(metrics_address="127.0.0.1:0", **ENGINE) as counted,
            pair(metrics="false", receipts_url="off", **ENGINE) as bare,
        ):
            for name, shape in SHAPES.items():
                ours, theirs = _measure(shape, (counted, bare))
                with_them[name].append(ours)
                without[name].append(theirs)
        print(f"round {number + 1} of {rounds}", flush=True)
    print("| load | figure | with | without | ratio | 95 % |\n|---|---|---|---|---|---|")
    for name in SHAPES:
        _print(name, with_them[name], without[name])


def _measure(shape: list[str], pairs: tuple[Pair, Pair]) -> tuple[Figures, Figures]:
    """Run a load on both pairs in turns, after one turn each that does not count; the means of each."""
    runs: tuple[list[Figures], list[Figures]] = ([], [])
    for one in pairs:
        _run(one, shape)
    for turn in TURNS:
        runs[turn].append(_run(pairs[turn], shape))
    ours, theirs = ((fmean(a for a, _ in figures), fmean(b for _, b in figures)) for figures in runs)
    return ours, theirs


def _run(one: Pair, shape: list[str]) -> Figures:
    """Run the load; CPU milliseconds a request and output tokens a second."""
    before = _cpu_seconds(one)
    (run,), _ = run_load([*LOAD, *shape, "--url", f"http://{one.bridge.address}"])
    return (_cpu_seconds(one) - before) / REQUESTS * 1e3, run.figures["output_token_throughput"]


def _cpu_seconds(one: Pair) -> float:
    times = [psutil.Process(server.pid).cpu_times() for server in (one.service, one.bridge)]
    return sum(time.user + time.system for time in times)


def _print(name: str, ours: list[Figures], theirs: list[Figures]) -> None:
    for place, figure in enumerate(FIGURES):
        with_them, without = ([figures[place] for figures in side] for side in (ours, theirs))
        ratio = compare(with_them, without)
        assert ratio is not None, f"{name}: a round without a figure"
        means = [f"{fmean(side):.4g}" for side in (with_them, without)]
        cells = [name, figure, *means, f"{ratio.value:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
