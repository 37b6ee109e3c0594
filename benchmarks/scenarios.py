"""Runs scenarios: TOML files with the settings of the servers, their load, and the targets.

`[bench]` holds options of `lodestream bench`, which also reads such a file (`--scenario`). `[servers]` holds
settings of the service, `[beside]` a second load at the same time, `[targets]` bounds of figures.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.engine import EngineArguments, child
from benchmarks.rival import rival
from benchmarks.servers import Pair, pair
from inference_service.config import ServiceConfig, cache_home
from inference_service.models import loader
from lodestream.bench.command import compared_figure
from lodestream.bench.command import measure as run_bench
from lodestream.bench.load import LoadResult
from lodestream.bench.report import Run, write_html
from lodestream.bench.targets import Outcome

DIRECTORY = Path(__file__).parent / "scenarios"
MODEL = "smollm2-135m-instruct"

_TARGET = re.compile(r"(<=|>=) *([\d.]+)")
_SAMPLE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of a scenario against its target."""

    title: str
    figure: str
    measured: float
    bound: str
    sides: tuple[float, float] | None = None
    """Of a ratio: the medians of ours and of the other's rounds."""

    @property
    def target(self) -> float:
        """The number of the bound."""
        return float(self.bound.split()[1])

    @property
    def is_met(self) -> bool:
        """Whether the figure is within its bound."""
        return self.measured <= self.target if self.bound.startswith("<=") else self.measured >= self.target


def measure(names: Sequence[str], html: Path) -> bool:
    """Run the scenarios whose names begin with one of `names` (all, if none), print a table, write a report.

    Returns:
        Whether every target is met.

    """
    paths = [p for p in sorted(DIRECTORY.glob("*.toml")) if not names or p.stem.startswith(tuple(names))]
    if not paths:
        raise SystemExit(f"no scenario is called {', '.join(names)}; see {DIRECTORY.name}/")
    print(
        "| scenario | figure | ours | target | ours / target | met |\n|---|---|---|---|---|---|", flush=True
    )
    runs: list[Run] = []
    rows: list[Row] = []
    for path in paths:
        found, measured = _scenario(tomllib.loads(path.read_text(encoding="utf-8")))
        runs += found
        rows += measured
        for row in measured:
            _show(row)
    write_html(html, runs, {})
    print(f"\nreport: {html}")
    return all(row.is_met for row in rows)


def _show(row: Row) -> None:
    ratio = f"{row.measured / row.target:.2f}" if row.target else ""
    measured = f"{row.measured:,.2f}"
    if row.sides is not None:
        measured += f" ({row.sides[0]:,.0f} / {row.sides[1]:,.0f})"
    cells = (row.title, row.figure, measured, row.bound, ratio, "yes" if row.is_met else "no")
    print(f"| {' | '.join(cells)} |", flush=True)


def _scenario(document: Mapping[str, Any]) -> tuple[list[Run], list[Row]]:
    title: str = document["title"]
    with _servers(document["servers"]) as servers:
        options = dict(document["bench"])
        with ExitStack() as stack:
            urls = {
                "rest": f"http://{servers.bridge.address}",
                "grpc": f"grpc://{servers.service.address}",
            }
            match options.get("compare"):
                case "library":
                    urls["library"] = stack.enter_context(_library(document["servers"]))
                case "rival":
                    speed = float(document["servers"]["simulated_decode_tps"])
                    urls["rival"] = stack.enter_context(rival(MODEL, speed))
            options["url"] = urls[options.get("url", "rest")]
            if "compare" in options:
                options["compare"] = urls[options["compare"]]
            figures, runs = _figures(document, servers, options)
    runs = [Run(run.target, f"{title}: {run.label}", run.result, run.figures) for run in runs]
    return runs, [_row(title, name, bound, figures) for name, bound in document["targets"].items()]


def _row(title: str, name: str, bound: str, figures: Mapping[str, Any]) -> Row:
    if not _TARGET.fullmatch(bound):
        raise SystemExit(f"{title}: {name}: {bound!r} is no target such as '>= 0.99'")
    value: Any = figures
    for part in name.split("."):
        value = value[part]
    return Row(title, name, float(value), bound, figures["sides"].get(name.removeprefix("ratio.")))


def _figures(
    document: Mapping[str, Any], servers: Pair, options: dict[str, Any]
) -> tuple[dict[str, Any], list[Run]]:
    with _memory(servers) as used:
        runs, ratios = run_bench(_words(options))
    figures = dict(runs[0].figures)
    figures["ratio"] = {name: ratio.value if ratio else float("nan") for name, ratio in ratios.items()}
    figures["sides"] = {name: _medians(name, runs) for name in ratios}
    latency = figures["request_latency_ms"]
    figures["latency_spread"] = latency["p99"] / latency["p50"]
    if (tps := float(document["servers"].get("simulated_decode_tps", 0))) > 0:
        figures["delivered_share"] = delivered_share(runs[0].result, tps)
        # The engine itself takes the time of one token before the first.
        figures["added_ttft_ms"] = {
            name: value - 1000 / tps for name, value in figures["time_to_first_token_ms"].items()
        }
    if streams := options.get("concurrency"):
        figures["stream_kib"] = used[0] / streams / 1024
    if "beside" in document:
        beside = {**document["beside"], "url": options["url"]}
        both = _with_neighbour(options, beside)
        alone = figures["time_to_first_token_ms"]["p99"]
        figures["beside_ttft_p99_ratio"] = both.figures["time_to_first_token_ms"]["p99"] / alone
        runs.append(both)
    return figures, runs


def _medians(name: str, runs: Sequence[Run]) -> tuple[float, float]:
    """The medians of a compared figure over the rounds, ours and the other's."""
    ours, other = (
        median(compared_figure(run, name) for run in runs if (run.target == runs[0].target) == is_first)
        for is_first in (True, False)
    )
    return ours, other


def delivered_share(result: LoadResult, tokens_per_second: float) -> float:
    """Tokens that arrived between warm-up and end, over those that an engine of this speed generated.

    Such an engine makes one token each `1 / tokens_per_second` seconds from when a request is due.
    """
    begin, end = result.began + result.plan.warmup_seconds, result.stopped
    offered = delivered = 0.0
    for outcome in result.outcomes:
        offered += _made(outcome, tokens_per_second, end) - _made(outcome, tokens_per_second, begin)
        arrived = sum(begin <= at <= end for at in outcome.arrivals)
        delivered += outcome.output_tokens * arrived / len(outcome.arrivals) if arrived else 0.0
    return delivered / offered if offered else 0.0


def _made(outcome: Outcome, tokens_per_second: float, at: float) -> float:
    return max(0.0, min(outcome.output_tokens, (at - outcome.due) * tokens_per_second))


def _with_neighbour(options: Mapping[str, Any], beside: Mapping[str, Any]) -> Run:
    command = [sys.executable, "-m", "lodestream.cli", "bench", *_words(beside), "--json", "-"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as neighbour:
        runs, _ = run_bench(_words(options))
        neighbour.wait(60)
    return runs[0]


def _words(options: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


@contextmanager
def _servers(settings: Mapping[str, Any]) -> Iterator[Pair]:
    given = {"backend": "simulated", "model": MODEL, **settings}
    with pair(**{name: str(value) for name, value in given.items()}) as servers:
        yield servers


@contextmanager
def _library(settings: Mapping[str, Any]) -> Iterator[str]:
    """Run the engine library's own HTTP server with the same engine arguments; yield its URL."""
    model = loader.resolve(MODEL, cache_home(), show_progress=True)
    prefill_chunk: int = ServiceConfig.model_fields["prefill_chunk"].default
    slots, context = settings["max_concurrency"], settings["context_length"]
    engine = EngineArguments(str(model.path), slots, context, prefill_chunk, 0)
    with child("benchmarks.library_server", *engine.words) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@contextmanager
def _memory(servers: Pair) -> Iterator[list[int]]:
    """Sample the resident memory of both servers; the list gets their largest growth, in bytes."""
    processes = [psutil.Process(server.pid) for server in (servers.service, servers.bridge)]

    def resident() -> int:
        return sum(process.memory_info().rss for process in processes)

    grown, ended, before = [0], threading.Event(), resident()

    def sample() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            grown[0] = max(grown[0], resident() - before)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield grown
    finally:
        ended.set()
        thread.join()
