"""The work of the filter is linear in the text, also for awkward texts and rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inference_service.output.content_filter.matching import Finder, Scanner, finders
from inference_service.output.content_filter.output import OutputFilter
from inference_service.output.content_filter.patterns import WIDEST
from inference_service.output.content_filter.rules import Action, Rule, Span
from tests.support.filtering import Filtered, delta, rule, start

AWKWARD = {
    "phrase": rule(phrases=("a" * WIDEST + "b",)),
    "phrases": rule(phrases=tuple("a" * n + "b" for n in range(1, WIDEST))),
    "pattern": rule(patterns=("(?:a|aa|a?a){1,100}b",)),
    "whole words": rule(patterns=("(a?a ?){1,80}b",), whole_word=True),
}


class Counting:
    """A finder that counts the characters that it reads."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self.shown = 0
        self.widest = 0

    def find(self, text: str, before: str) -> Iterator[Span]:
        self.shown += len(text)
        self.widest = max(self.widest, len(text))
        return self._finder.find(text, before)

    def first_open(self, text: str, before: str) -> int:
        return self._finder.first_open(text, before)


def watched(awkward: Rule, text: str, size: int) -> Counting:
    """The finder after it read a text in pieces of one size."""
    [(finder, folding)] = finders([awkward])
    counting = Counting(finder)
    filtered = Filtered(OutputFilter([Scanner(counting, folding)]))
    for at in range(0, len(text), size):
        filtered.feed(delta(text[at : at + size]))
        assert filtered.filter.held <= WIDEST + 1
    filtered.flush()
    return counting


@pytest.mark.parametrize("name", AWKWARD)
def test_each_character_costs_at_most_the_width_of_a_match(name: str) -> None:
    length = 3000

    assert length <= watched(AWKWARD[name], "a" * length, 1).shown <= length * (WIDEST + 2)


@pytest.mark.parametrize("name", AWKWARD)
def test_twice_the_text_is_twice_the_work(name: str) -> None:
    once, twice = (watched(AWKWARD[name], "a" * length, 4).shown for length in (2000, 4000))

    assert twice <= 2.5 * once


@pytest.mark.parametrize("name", AWKWARD)
def test_a_long_text_in_one_piece_is_read_little_more_than_once(name: str) -> None:
    length = 100_000

    counting = watched(AWKWARD[name], "a" * length, length)

    assert counting.shown <= 1.5 * length
    # Each of many matches is searched in a stretch of bounded length.
    assert counting.widest <= 2000


def test_text_without_partial_matches_is_released_at_once() -> None:
    """Text in which nothing looks like the beginning of a match is released at once."""
    filtered = Filtered(start(rule(phrases=("bad",), patterns=("[0-9]{4}-[0-9]{4}",), action=Action.REDACT)))

    for piece in ("Yes", ", ", "of", " course", "."):
        assert filtered.feed(delta(piece)).text == piece
