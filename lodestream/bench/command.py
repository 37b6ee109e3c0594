"""`lodestream bench`: the arguments, the loads that they ask for, and where the figures go."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from lodestream.bench.figures import Objective, Ratio, compare, summarize
from lodestream.bench.load import LoadPlan, Progress, run_load
from lodestream.bench.options import parse
from lodestream.bench.report import Run, show_ratios, show_run, show_sweep, write_csv, write_html, write_json
from lodestream.bench.targets import TargetOptions, make_target
from lodestream.bench.workload import BenchRequest, Lengths, SyntheticWorkload, read_requests, read_trace
from lodestream.tls import CallerTls
from lodestream_common.errors import SettingError

COMPARED = {
    "output tokens/s": ("output_token_throughput", ""),
    "requests/s": ("request_throughput", ""),
    "TTFT p50": ("time_to_first_token_ms", "p50"),
    "TTFT p99": ("time_to_first_token_ms", "p99"),
    "inter-token p50": ("inter_token_latency_ms", "p50"),
    "inter-chunk p99": ("inter_chunk_latency_ms", "p99"),
    "latency p99": ("request_latency_ms", "p99"),
}


def run(arguments: Sequence[str]) -> int:
    """Run the loads and show them.

    Returns:
        0 where each load had answers, 1 where one had none. Wrong arguments are a SettingError.

    """
    options = parse(arguments)
    bench = Bench(options)
    console = Console(stderr=False)
    runs, ratios = uvloop.run(bench.run(console))
    if options.json == "-":
        print(json.dumps([run.figures for run in runs]))
    elif options.json:
        write_json(Path(options.json), runs, ratios)
    if options.csv:
        write_csv(Path(options.csv), runs)
    if options.html:
        write_html(Path(options.html), runs, ratios)
    return 0 if all(run.figures["requests"] > run.figures["failed"] for run in runs) else 1


class Bench:
    """The loads that one command line asks for.

    Raises:
        SettingError: an option is malformed, out of range, or contradicts another.

    """

    def __init__(self, options: Namespace) -> None:
        self._options = options
        self._objective = Objective.parse(options.slo) if options.slo else None
        self._workload = _workload(options)
        self._plan = _plan(options, is_trace=options.trace is not None)
        self._target_options = _target_options(options)
        self._targets = [options.url, *([options.compare] if options.compare else [])]
        self._target_options.tls.check_used(
            is_tls=any(url.startswith(("https://", "grpcs://")) for url in self._targets),
            schemes="https:// or grpcs://",
        )
        for url in self._targets:
            # A malformed URL shows before any load begins.
            make_target(url, self._target_options)

    async def run(self, console: Console) -> tuple[list[Run], dict[str, Ratio | None]]:
        """Run all loads in turn and print their figures.

        Raises:
            OperatorError: a target cannot be reached, or serves no model.

        """
        quiet = self._options.json == "-"
        if self._options.compare:
            return await self._compare(Console(quiet=True) if quiet else console)
        runs = []
        for label, plan in self._plans():
            runs.append(await self._one(self._options.url, label, plan))
            if not quiet:
                show_run(runs[-1], console)
        if len(runs) > 1 and not quiet:
            show_sweep(runs, console)
        return runs, {}

    async def _compare(self, console: Console) -> tuple[list[Run], dict[str, Ratio | None]]:
        """Alternate the two targets, so that the machine's changes meet both alike."""
        rounds = self._options.rounds
        runs: list[Run] = []
        for number in range(rounds):
            turn = self._targets if number % 2 == 0 else self._targets[::-1]
            runs += [await self._one(url, f"round {number + 1}", self._plan) for url in turn]
        by_target = [[run for run in runs if run.target == url] for url in self._targets]
        ratios = {
            name: compare(
                [compared_figure(run, name) for run in by_target[0]],
                [compared_figure(run, name) for run in by_target[1]],
            )
            for name in COMPARED
        }
        for group in by_target:
            show_run(group[-1], console)
        show_ratios(ratios, self._targets, rounds, console)
        return runs, ratios

    def _plans(self) -> Iterable[tuple[str, LoadPlan]]:
        plan = self._plan
        sweep = self._options.sweep
        if not sweep:
            yield _label(plan), plan
            return
        for value in _numbers(sweep):
            swept = replace(plan, rate=value) if plan.rate else replace(plan, concurrency=int(value))
            yield _label(swept), swept

    async def _one(self, url: str, label: str, plan: LoadPlan) -> Run:
        target = make_target(url, self._target_options)
        with ExitStack() as stack:
            try:
                result = await run_load(target, self._workload, plan, self._progress(stack, f"{url} {label}"))
            finally:
                await target.close()
        return Run(url, label, result, summarize(result, self._objective))

    def _progress(self, stack: ExitStack, name: str) -> Any:
        console = Console(stderr=True)
        if not console.is_terminal:
            return lambda _: None
        status = stack.enter_context(console.status(name))

        def show(progress: Progress) -> None:
            status.update(
                f"{name}: {progress.seconds:.0f} s, {progress.open} open, {progress.done} done, "
                f"{progress.failed} failed"
            )

        return show


def measure(arguments: Sequence[str]) -> tuple[list[Run], dict[str, Ratio | None]]:
    """Run the loads of a command line in this process, and print nothing.

    Returns:
        The loads in their order; with --compare also the ratios of the figures by their names.

    """
    bench = Bench(parse([*arguments, "--json", "-"]))
    return uvloop.run(bench.run(Console(quiet=True)))


def _plan(options: Namespace, *, is_trace: bool) -> LoadPlan:
    for name in ("requests", "seconds", "concurrency", "rate", "rounds", "timeout"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise SettingError(f"--{name}: {value:g} must be above 0")
    for name in ("warmup", "ramp", "shared_prefix"):
        if getattr(options, name) < 0:
            raise SettingError(f"--{name.replace('_', '-')}: must be 0 or more")
    if options.sweep and (is_trace or options.compare):
        raise SettingError("--sweep: goes with neither --trace nor --compare")
    if is_trace and options.rate:
        raise SettingError("--rate: a trace has arrivals of its own")
    seconds = options.seconds
    if seconds is None and options.requests is None and not is_trace:
        seconds = 30.0
    if seconds is not None and options.warmup >= seconds:
        raise SettingError(f"--warmup: must be shorter than the load, {seconds:g} s")
    is_open = is_trace or options.rate is not None
    concurrency = options.concurrency or (None if is_open else 16)
    return LoadPlan(
        concurrency, options.rate, options.requests, seconds, options.warmup, options.ramp, options.seed
    )


def _workload(options: Namespace) -> Iterable[BenchRequest]:
    output = Lengths.parse(options.output_tokens, "--output-tokens") if options.output_tokens else None
    as_tokens = not (options.chat or options.text)
    if options.trace:
        return read_trace(options.trace, options.seed, as_tokens)
    if options.dataset:
        return read_requests(options.dataset, output, options.seed)
    prompt = Lengths.parse(options.prompt_tokens, "--prompt-tokens")
    output = output or Lengths("fixed", 128)
    workload = SyntheticWorkload(
        prompt, output, options.seed, as_tokens, options.shared_prefix, _token_ids(options.token_ids)
    )
    # Prompts that are few are made before the load, so that making them costs the load nothing.
    return list(islice(workload, options.requests)) if (options.requests or 10_001) <= 10_000 else workload


def _token_ids(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and int(low) < int(high)):
        raise SettingError(f"--token-ids: {text!r} must be LOW:HIGH, token ids of 0 or more, LOW below HIGH")
    return int(low), int(high)


def _target_options(options: Namespace) -> TargetOptions:
    try:
        extra = json.loads(options.body)
    except ValueError as error:
        raise SettingError(f"--body: is not JSON: {error}") from None
    if not isinstance(extra, dict):
        raise SettingError("--body: must be a JSON object")
    return TargetOptions(
        model=options.model,
        api_key=options.api_key or os.environ.get("LODESTREAM_API_KEY"),
        stream=not options.no_stream,
        chat=options.chat,
        temperature=options.temperature,
        ignore_eos=options.ignore_eos,
        timeout=options.timeout,
        extra=extra,
        tls=CallerTls.of(options),
    )


def _label(plan: LoadPlan) -> str:
    if plan.rate:
        return f"rate {plan.rate:g}"
    return f"concurrency {plan.concurrency}" if plan.concurrency else "trace"


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise SettingError(f"--sweep: {text!r} must be numbers above 0 with commas between them")
    return numbers


def compared_figure(run: Run, name: str) -> float:
    """The figure of a load that `COMPARED` has under a name."""
    figure_name, share = COMPARED[name]
    figure = run.figures[figure_name]
    return float(figure.get(share, 0.0) if share else figure)
