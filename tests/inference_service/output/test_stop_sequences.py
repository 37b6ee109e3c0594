"""Stop sequences are found at every cut, and no part of them is ever visible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.output.pipeline import StopSequences
from tests.support.texts import THOROUGH, cuts, hard_texts, repetitive_texts, stop_sets, until_stop


def shown(pieces: Sequence[str], stops: Sequence[str]) -> Iterator[tuple[str, StopSequences]]:
    """The visible text after each piece."""
    matcher = StopSequences(stops)
    text = ""
    for piece in pieces:
        text += piece
        matcher.feed(piece)
        yield text[: matcher.safe], matcher
        if matcher.match:
            return


@THOROUGH
@given(data=st.data(), text=st.one_of(repetitive_texts(), hard_texts()))
def test_the_visible_text_ends_where_the_first_stop_begins(data: st.DataObject, text: str) -> None:
    stops = data.draw(stop_sets(text))
    pieces = data.draw(cuts(text))

    *_, (visible, matcher) = shown(pieces, stops)

    expected, stop = until_stop(text, stops)
    assert (matcher.match.sequence if matcher.match else None) == stop
    assert visible == expected if stop else expected.startswith(visible)


@THOROUGH
@given(data=st.data(), text=st.one_of(repetitive_texts(), hard_texts()))
def test_visible_text_is_never_taken_back(data: st.DataObject, text: str) -> None:
    """The visible text never shrinks, and no part of it later belongs to a stop sequence."""
    stops = data.draw(stop_sets(text))
    expected, _ = until_stop(text, stops)

    before = ""
    for visible, _ in shown(data.draw(cuts(text)), stops):
        assert visible.startswith(before)
        assert expected.startswith(visible)
        before = visible


@THOROUGH
@given(data=st.data(), text=repetitive_texts(20))
def test_only_text_that_may_become_a_stop_is_held_back(data: st.DataObject, text: str) -> None:
    stops = data.draw(stop_sets(text))

    pieces = data.draw(cuts(text))

    for count, (visible, matcher) in enumerate(shown(pieces, stops), start=1):
        held = "".join(pieces[:count])[len(visible) :]
        assert matcher.match or held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("stops", "text", "visible", "stop"),
    [
        (["b", "ab"], "xab", "x", "ab"),
        (["abc", "b"], "xabc", "xa", "b"),
        (["aab"], "aaab", "a", "aab"),
        (["abab", "abc"], "ababc", "", "abab"),
        (["\n\n", "\n"], "a\n\nb", "a", "\n"),
        (["end", "end"], "the end", "the ", "end"),
        (["😀"], "a😀b", "a", "😀"),
        (["\u0301"], "e\u0301", "e", "\u0301"),
    ],
)
def test_overlapping_stop_sequences(stops: list[str], text: str, visible: str, stop: str) -> None:
    *_, (seen, matcher) = shown(list(text), stops)

    assert seen == visible
    assert matcher.match is not None
    assert matcher.match.sequence == stop


def test_without_stop_sequences_all_text_is_visible_at_once() -> None:
    assert [visible for visible, _ in shown(["a", "b"], [])] == ["a", "ab"]


def test_a_long_repetitive_text_takes_linear_time() -> None:
    """A stop sequence that nearly matches everywhere takes no more time than others."""
    matcher = StopSequences(["a" * 1023 + "b", "a" * 1024 + "c"])

    matcher.feed("a" * 200_000)

    assert matcher.match is None
    assert matcher.safe == 200_000 - 1024
