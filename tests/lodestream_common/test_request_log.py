"""The sample of request lines, and the names that are safe in them."""

from __future__ import annotations

import pytest

from lodestream_common.request_log import LogSample, loggable_name
from rest_bridge import errors

ROWS = {row.code: row for row in vars(errors).values() if isinstance(row, errors.Row)}


def kept(sample: LogSample, outcome: str, count: int = 4000) -> set[int]:
    """Which of so many requests have a line."""
    return {n for n in range(count) if sample.fields(f"request-{n}", outcome) is not None}


def test_a_rate_keeps_its_part_and_says_it_in_the_line() -> None:
    sample = LogSample.parse("ok=0.1, refused=0")

    assert 300 < len(kept(sample, "ok")) < 500
    assert kept(sample, "invalid_value") == set()
    assert len(kept(sample, "internal_error")) == len(kept(sample, "client_gone")) == 4000
    (first, *_) = kept(sample, "ok")
    assert sample.fields(f"request-{first}", "ok") == {"sample_rate": 0.1}
    assert sample.fields("any", "internal_error") == {}


def test_the_same_requests_are_kept_everywhere_and_more_at_a_higher_rate() -> None:
    few, many = LogSample.parse("ok=0.1,cancelled=0.1"), LogSample.parse("ok=0.4")

    assert kept(few, "ok") == kept(few, "cancelled") == kept(few, "client_gone")
    assert kept(few, "ok") < kept(many, "ok")


@pytest.mark.parametrize("text", ["", " ", "ok=1", "ok=1.0,error=1"])
def test_everything_is_kept_without_a_lower_rate(text: str) -> None:
    assert len(kept(LogSample.parse(text), "ok", 50)) == 50


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("okay=0.1", "'okay' is none of"),
        ("ok", "rate of ok"),
        ("ok=1.5", "rate of ok"),
        ("ok=-0.1", "rate of ok"),
        ("ok=nan", "rate of ok"),
        ("ok=0.1,ok=0.2", "ok is there twice"),
        ("ok=0.1,", "'' is none of"),
    ],
)
def test_a_malformed_setting_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        LogSample.parse(text)


@pytest.mark.parametrize("code", ROWS)
def test_the_group_of_an_error_is_error_where_http_says_so(code: str) -> None:
    sample = LogSample.parse("error=0")

    assert (sample.fields("any", code) is None) is (ROWS[code].status >= 500)


def test_only_what_can_be_a_model_s_name_is_logged() -> None:
    assert loggable_name("meta-llama/Llama-3.1-8B:fp8@x") == "meta-llama/Llama-3.1-8B:fp8@x"
    for other in ("", "a b", "a\nb", "é", "x" * 129, None, 5):
        assert loggable_name(other) is None
