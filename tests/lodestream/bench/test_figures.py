"""Figures of the load client: percentiles, goodput, windows, ratios."""

from __future__ import annotations

import random

import pytest

from lodestream.bench.figures import Objective, compare, percentile, summarize, warnings
from lodestream.bench.load import LoadPlan, LoadResult
from lodestream.bench.targets import Outcome
from lodestream_common.errors import SettingError


def outcome(due: float, arrivals: list[float], tokens: int, error: str = "") -> Outcome:
    ended = arrivals[-1] if arrivals else due
    return Outcome(due, due, ended, arrivals, prompt_tokens=10, output_tokens=tokens, error=error)


def result(*outcomes: Outcome, seconds: float = 10.0, warmup: float = 0.0) -> LoadResult:
    plan = LoadPlan(4, seconds=seconds, warmup_seconds=warmup)
    return LoadResult("m", plan, 0.0, list(outcomes), stopped=seconds)


def test_percentiles_interpolate() -> None:
    values = [float(v) for v in range(1, 102)]

    assert [percentile(values, share) for share in (0, 50, 99, 100)] == [1, 51, 100, 101]
    assert percentile([1.0, 2.0], 75) == 1.75
    assert percentile([], 50) == 0


def test_latencies_of_one_request() -> None:
    figures = summarize(result(outcome(1.0, [1.5, 2.0, 3.5], tokens=5)))

    assert figures["time_to_first_token_ms"]["p50"] == pytest.approx(500)
    assert figures["inter_token_latency_ms"]["p50"] == pytest.approx(500)  # 2 s for 4 tokens
    assert figures["inter_chunk_latency_ms"]["max"] == pytest.approx(1500)
    assert figures["request_latency_ms"]["mean"] == pytest.approx(2500)


def test_latencies_start_when_a_request_is_due_even_if_the_client_is_late() -> None:
    late = Outcome(1.0, 1.4, 2.0, [2.0], output_tokens=1)

    assert summarize(result(late))["time_to_first_token_ms"]["p50"] == pytest.approx(1000)


def test_throughput_counts_the_tokens_between_warm_up_and_end() -> None:
    long = outcome(0.0, [float(second) for second in range(1, 21)], tokens=40)

    figures = summarize(result(long, outcome(5.0, [6.0], 1), seconds=10, warmup=2))

    # Nine arrivals of two tokens each in the seconds 2 to 10, and one of one.
    assert figures["output_token_throughput"] == pytest.approx(19 / 8)
    assert figures["requests"] == 1  # the other one began in the warm-up
    assert figures["request_throughput"] == pytest.approx(1 / 8)


def test_failures_are_counted_by_kind_and_have_no_latency() -> None:
    figures = summarize(
        result(outcome(0, [1.0], 1), outcome(0, [], 0, "http_429"), outcome(0, [], 0, "http_429"))
    )

    assert (figures["requests"], figures["failed"], figures["errors"]) == (3, 2, {"http_429": 2})
    assert figures["time_to_first_token_ms"]["max"] == pytest.approx(1000)
    assert "2 of 3 requests failed (http_429: 2)" in warnings(figures)


def test_goodput_counts_requests_that_keep_every_bound() -> None:
    objective = Objective.parse("ttft=1s, itl=500ms,e2e=5s")
    kept = outcome(0, [0.5, 1.0], 2)
    slow_start, slow_tokens, slow_end = (
        outcome(0, [2.0], 1),
        outcome(0, [0.5, 3.0], 2),
        outcome(0, [0.5, 5.5], 99),
    )

    figures = summarize(
        result(kept, slow_start, slow_tokens, slow_end, outcome(0, [], 0, "timeout")), objective
    )

    assert figures["good_share"] == pytest.approx(1 / 5)
    assert figures["goodput"] == pytest.approx(1 / 10)


@pytest.mark.parametrize("text", ["", "ttft", "ttft=", "ttft=5", "p99=5s", "ttft=5s,", "itl=-1ms"])
def test_malformed_objectives_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"^--slo: "):
        Objective.parse(text)


def test_a_busy_load_client_warns() -> None:
    busy = result(outcome(0, [1.0], 1))
    busy.cpu_share, busy.late_seconds = 0.93, [0.2] * 10

    found = warnings(summarize(busy))

    assert any("93 % of a core" in text for text in found)
    assert any("200 ms late" in text for text in found)


def test_the_slowest_stream_is_set_against_the_median() -> None:
    streams = [outcome(0, [0.0, 1.0], 11) for _ in range(9)]

    figures = summarize(result(*streams, outcome(0, [0.0, 4.0], 11)))

    assert figures["slowest_share"] == pytest.approx(0.25)


def test_ratios_are_taken_round_by_round_with_an_interval() -> None:
    source = random.Random(5)
    speeds = [source.uniform(100, 1000) for _ in range(12)]
    other = [speed / source.uniform(1.9, 2.1) for speed in speeds]

    ratio = compare(speeds, other)

    assert ratio is not None
    assert ratio.value == pytest.approx(2, rel=0.03)
    assert 1.9 < ratio.low < ratio.value < ratio.high < 2.1
    assert compare([1.0], [0.0]) is None
