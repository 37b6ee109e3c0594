"""The rival of the benchmarks answers `lodestream bench`, one message a token."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.rival import rival
from benchmarks.scenarios import MODEL
from lodestream.bench.command import measure

TOKENS = 20


def test_a_token_is_a_message_and_none_is_lost() -> None:
    with rival(MODEL, 100, Path(sys.executable).parent) as url:
        words = "--concurrency 4 --requests 8 --text --prompt-tokens 8 --ignore-eos"
        runs, _ = measure(["--url", url, "--output-tokens", str(TOKENS), *words.split()])

    outcomes = runs[0].result.outcomes
    assert [outcome.error for outcome in outcomes] == [""] * 8
    assert {outcome.output_tokens for outcome in outcomes} == {TOKENS}
    assert {len(outcome.arrivals) for outcome in outcomes} == {TOKENS}
