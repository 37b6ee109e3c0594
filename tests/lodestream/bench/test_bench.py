"""`lodestream bench` against real servers of ours."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from lodestream.bench.command import run
from lodestream.bench.figures import summarize
from lodestream.bench.load import LoadPlan, run_load
from lodestream.bench.targets import TargetOptions, make_target
from lodestream.bench.workload import BenchRequest, Lengths, SyntheticWorkload
from tests.transports.metered import metered_servers

OPTIONS = TargetOptions(
    model="", api_key=None, stream=True, chat=False, temperature=0, ignore_eos=True, timeout=20, extra={},
)  # fmt: skip


@asynccontextmanager
async def both_servers(home: Path, **settings: Any) -> AsyncIterator[tuple[str, str]]:
    """The URLs of the bridge and the service."""
    async with metered_servers(home, **settings) as servers:
        yield f"http://{servers.bridge}", f"grpc://{servers.service}"


def workload(prompt: str = "16", output: str = "8", as_tokens: bool = True) -> SyntheticWorkload:
    return SyntheticWorkload(
        Lengths.parse(prompt, "--prompt-tokens"), Lengths.parse(output, "--output-tokens"), 1, as_tokens
    )


async def test_every_token_is_counted_on_both_transports(tmp_path: Path) -> None:
    async with both_servers(tmp_path, max_concurrency=8) as urls:
        for url in urls:
            plan = LoadPlan(concurrency=8, requests=24)
            result = await run_load(make_target(url, OPTIONS), workload(output="uniform:2:30"), plan)

            figures = summarize(result)
            sent = islice(workload(output="uniform:2:30"), 24)
            assert figures["errors"] == {}
            assert figures["output_tokens"] == sum(request.output_tokens for request in sent)
            assert figures["prompt_tokens"] == 24 * 16
            assert all(o.began <= o.arrivals[0] <= o.arrivals[-1] <= o.ended for o in result.outcomes)


async def test_chat_and_whole_answers(tmp_path: Path) -> None:
    async with both_servers(tmp_path) as (url, _):
        for chat, stream in [(True, True), (True, False), (False, False)]:
            options = TargetOptions(
                "",
                None,
                stream=stream,
                chat=chat,
                temperature=0,
                ignore_eos=True,
                timeout=20,
                extra={},
            )
            plan = LoadPlan(concurrency=2, requests=4)
            result = await run_load(make_target(url, options), workload(as_tokens=not chat), plan)

            assert [(o.error, o.output_tokens) for o in result.outcomes] == [("", 8)] * 4


async def test_latencies_equal_those_of_the_engine(tmp_path: Path) -> None:
    async with both_servers(tmp_path, simulated_decode_tps=50, simulated_prefill_tps=160) as (url, _):
        result = await run_load(make_target(url, OPTIONS), workload(), LoadPlan(concurrency=1, requests=3))

    figures = summarize(result)
    # 16 tokens of prompt take 100 ms, a token 20 ms.
    assert figures["time_to_first_token_ms"]["min"] >= 100
    assert figures["inter_token_latency_ms"]["p50"] == pytest.approx(20, rel=0.3)


async def test_refusals_are_failures_by_kind(tmp_path: Path) -> None:
    settings = {"max_concurrency": 1, "queue_limit": 1, "simulated_decode_tps": 20}
    async with both_servers(tmp_path, **settings) as (http, grpc):
        for url, kind in [(http, "http_429"), (grpc, "queue_full")]:
            plan = LoadPlan(concurrency=None, rate=200, requests=12)
            figures = summarize(await run_load(make_target(url, OPTIONS), workload(), plan))

            assert figures["requests"] == 12
            assert figures["errors"].keys() == {kind}
            assert 0 < figures["failed"] < 12


async def test_a_trace_is_sent_at_its_times(tmp_path: Path) -> None:
    trace = [BenchRequest((400, 401), 2, at) for at in (0.0, 0.3, 0.35)]
    async with both_servers(tmp_path) as (url, _):
        result = await run_load(make_target(url, OPTIONS), trace, LoadPlan(concurrency=None))

    began = sorted(outcome.began - result.began for outcome in result.outcomes)
    assert [due <= at for due, at in zip((0.0, 0.3, 0.35), began, strict=True)] == [True] * 3
    assert sorted(round(o.due - result.began, 2) for o in result.outcomes) == [0.0, 0.3, 0.35]


async def test_a_load_of_seconds_ends_and_counts_no_warm_up(tmp_path: Path) -> None:
    async with both_servers(tmp_path, simulated_decode_tps=100) as (url, _):
        plan = LoadPlan(concurrency=4, seconds=1.5, warmup_seconds=0.5, ramp_seconds=0.2)
        result = await run_load(make_target(url, OPTIONS), workload(), plan)

    figures = summarize(result)
    assert figures["seconds"] == pytest.approx(1.0)
    assert 0 < figures["requests"] < len(result.outcomes)
    assert all(outcome.due - result.began < 1.5 for outcome in result.outcomes)


async def test_the_command_writes_all_output_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {kind: tmp_path / f"report.{kind}" for kind in ("json", "csv", "html")}
    words = [word for kind, path in names.items() for word in (f"--{kind}", str(path))]
    async with both_servers(tmp_path) as (url, _):
        load = ["--url", url, "--sweep", "1,3", "--requests", "6", "--output-tokens", "8", "--slo", "ttft=9s"]
        status = await asyncio.to_thread(run, [*load, "--ignore-eos", *words])

    printed = capsys.readouterr().out
    assert status == 0
    assert "Time to first token" in printed
    assert "goodput" in printed
    document = json.loads(names["json"].read_text())
    assert [entry["label"] for entry in document["runs"]] == ["concurrency 1", "concurrency 3"]
    assert [entry["figures"]["output_tokens"] for entry in document["runs"]] == [48, 48]
    with names["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["output_tokens"], row["error"]) for row in rows] == [("8", "")] * 12
    page = names["html"].read_text()
    for title in ("Throughput over load", "Time to first token over time", "Inter-token latency"):
        assert f'aria-label="{title}"' in page
    # The report needs no other file and no other host.
    assert "http" not in page.replace(url, "")


async def test_two_servers_are_compared_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    slow.mkdir()
    fast.mkdir()
    async with (
        both_servers(slow, simulated_decode_tps=20) as (slow_url, _),
        both_servers(fast, simulated_decode_tps=100) as (fast_url, _),
    ):
        words = ["--compare", slow_url, "--rounds", "3", "--requests", "2", "--concurrency", "2"]
        path = tmp_path / "ratios.json"
        options = ["--output-tokens", "11", "--ignore-eos", "--json", str(path)]
        status = await asyncio.to_thread(run, ["--url", fast_url, *words, *options])

    assert status == 0
    ratio = json.loads(path.read_text())["ratios"]["inter-token p50"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    assert ratio["value"] == pytest.approx(0.2, rel=0.5)
    assert "95 % interval" in capsys.readouterr().out


async def test_flags_override_the_options_of_a_scenario_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = tmp_path / "scenario.toml"
    scenario.write_text('concurrency = 2\nrequests = 6\noutput-tokens = "5"\nignore-eos = true\n')
    async with both_servers(tmp_path) as (url, _):
        words = ["--scenario", str(scenario), "--url", url, "--requests", "4", "--json", "-"]
        await asyncio.to_thread(run, words)

    (figures,) = json.loads(capsys.readouterr().out)
    assert (figures["requests"], figures["output_tokens"]) == (4, 20)
