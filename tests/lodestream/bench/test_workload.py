"""Lengths, files of requests, traces and arrivals of the load client."""

from __future__ import annotations

import json
import random
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean, stdev

import pytest

from lodestream.bench.workload import (
    Lengths,
    SyntheticWorkload,
    poisson_arrivals,
    read_requests,
    read_trace,
)
from lodestream_common.errors import SettingError


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [
        ("128", 128, 0),
        ("uniform:64:256", 160, 55.7),
        ("normal:500:50", 500, 50),
        ("lognormal:200:100", 200, 100),
    ],
)
def test_lengths_have_the_mean_and_the_deviation_of_their_distribution(
    text: str, mean: float, deviation: float
) -> None:
    source = random.Random(7)
    lengths = Lengths.parse(text, "--prompt-tokens")

    drawn = [lengths.draw(source) for _ in range(20_000)]

    assert fmean(drawn) == pytest.approx(mean, rel=0.03)
    assert stdev(drawn) == pytest.approx(deviation, rel=0.1)
    assert min(drawn) >= 1


@pytest.mark.parametrize(
    "text",
    ["", "0", "-3", "x", "uniform:3", "uniform:9:3", "normal:1:2:3", "zipf:1:2", "1000001", "normal:5:-1"],
)
def test_malformed_lengths_are_refused_by_the_name_of_the_option(text: str) -> None:
    with pytest.raises(SettingError, match=r"^--output-tokens: "):
        Lengths.parse(text, "--output-tokens")


def test_synthetic_prompts_differ_and_are_the_same_for_the_same_seed() -> None:
    def prompts(seed: int) -> list[object]:
        lengths = Lengths.parse("32", "--prompt-tokens")
        return [r.prompt for r in islice(SyntheticWorkload(lengths, lengths, seed, True), 50)]

    assert prompts(1) == prompts(1)
    assert len(set(prompts(1)) | set(prompts(2))) == 100


def test_prompts_share_the_prefix_that_is_asked_for() -> None:
    lengths = Lengths.parse("uniform:10:40", "--prompt-tokens")
    workload = SyntheticWorkload(lengths, lengths, 3, as_tokens=True, shared_prefix=16)

    prompts = [request.prompt for request in islice(workload, 40)]

    longest = max(prompts, key=len)
    assert all(prompt[:16] == longest[:16][: len(prompt)] for prompt in prompts)
    assert len({prompt[16:] for prompt in prompts if len(prompt) > 20}) > 10
    assert {len(prompt) for prompt in prompts} <= set(range(10, 41))


def test_sharegpt_conversations_become_prompts_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "x" * 400}]
    path.write_text(json.dumps([{"conversations": turns}, {"conversations": turns[:1]}]))

    requests = list(islice(read_requests(path, None, 0), 3))

    assert {(request.prompt, request.output_tokens) for request in requests} == {("Why?", 100)}


def test_lines_of_prompts_are_sent_in_turn_with_lengths_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "output_tokens": 5}\n\n{"prompt": "b"}\n')

    assert [(r.prompt, r.output_tokens) for r in islice(read_requests(path, None, 0), 3)] == [
        ("a", 5),
        ("b", 128),
        ("a", 5),
    ]
    fixed = Lengths.parse("9", "--output-tokens")
    assert [r.output_tokens for r in islice(read_requests(path, fixed, 0), 2)] == [9, 9]


@pytest.mark.parametrize("content", ["", "nonsense", "[1]", '{"text": "x"}', '{"prompt": ""}'])
def test_a_file_without_requests_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)

    with pytest.raises(SettingError, match=r"bad\.json"):
        read_requests(path, None, 0)


def test_a_trace_has_times_and_lengths_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    lines = [
        {"timestamp": 2500, "input_length": 7, "output_length": 3},
        {"timestamp": 1000, "input_length": 5, "output_length": 2},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))

    requests = list(read_trace(path, 0, as_tokens=True))

    assert [(r.at, len(r.prompt), r.output_tokens) for r in requests] == [(0.0, 5, 2), (1.5, 7, 3)]


def test_a_trace_names_the_request_that_lacks_a_field(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 1, "input_length": 7, "output_length": 3}\n{"timestamp": 2}\n')

    with pytest.raises(SettingError, match="request 2: needs timestamp"):
        read_trace(path, 0, as_tokens=True)


def test_arrivals_have_their_rate_and_vary() -> None:
    times = list(islice(poisson_arrivals(50, 1), 20_000))
    pauses = [after - before for before, after in pairwise(times)]

    assert fmean(pauses) == pytest.approx(1 / 50, rel=0.03)
    assert stdev(pauses) == pytest.approx(1 / 50, rel=0.05)
