"""Patterns: their supported syntax, and their partial matches."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.output.content_filter.patterns import PatternError, _parse, compile_re2, translate
from tests.support.texts import THOROUGH

LETTERS = "abc"
WIDTH = 5

_ATOMS = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "[b-c]", r"\w", r"[\Wa]", r"\S", "(?:)"])


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeats = st.sampled_from(["?", "{2}", "{0,2}", "{1,3}", "??", "{0}"])
    return st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda options: f"({'|'.join(options)})"),
        st.tuples(inner, repeats).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    )


def _texts(longest: int) -> list[str]:
    return ["".join(t) for n in range(longest + 1) for t in itertools.product(LETTERS, repeat=n)]


def _is_usable(pattern: str) -> bool:
    try:
        return _parse(pattern).getwidth()[1] <= WIDTH and bool(translate(pattern))
    except PatternError:
        return False


PATTERNS = st.recursive(_ATOMS, _grown, max_leaves=6).filter(_is_usable)


@THOROUGH
@given(pattern=PATTERNS)
def test_a_pattern_matches_the_same_as_in_python(pattern: str) -> None:
    whole = compile_re2(translate(pattern).whole, ignore_case=False)

    for text in _texts(WIDTH):
        assert bool(whole.fullmatch(text)) == bool(re.fullmatch(pattern, text))


@THOROUGH
@given(pattern=PATTERNS)
def test_partial_matches_are_exactly_the_beginnings_of_matches(pattern: str) -> None:
    unfinished = compile_re2(translate(pattern).unfinished, ignore_case=False)

    matches = [text for text in _texts(WIDTH) if re.fullmatch(pattern, text)]
    beginnings = {match[:length] for match in matches for length in range(len(match))}
    assert {text for text in _texts(WIDTH) if unfinished.fullmatch(text)} == beginnings


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("a+", "more than 256"),
        ("a*b", "more than 256"),
        ("a{1,257}", "more than 256"),
        ("(a{1,20}){1,20}", "more than 256"),
        ("a?", "the empty text"),
        ("", "the empty text"),
        ("^a", "anchors"),
        ("a$", "anchors"),
        (r"\ba", "anchors"),
        ("a(?=b)", "no assert"),
        ("(?<!a)b", "no assert not"),
        (r"(a)\1", "no groupref"),
        ("(?i)a", "flags"),
        ("(?i:a)", "flags"),
        ("(a", "unterminated"),
        ("[[a]", "nested set"),
        (r"[^\W]", "inside"),
        ("(?P<n>a)(?(n)b|c)", "no groupref"),
        ("(?:(?:.{0,16}\\w){1,4}x\\d){1,3}", ""),
    ],
)
def test_unsupported_syntax_is_refused(pattern: str, complaint: str) -> None:
    if not complaint:
        assert translate(pattern).whole
        return
    with pytest.raises(PatternError, match=complaint):
        translate(pattern)


def test_a_pattern_that_needs_too_much_memory_is_refused() -> None:
    with pytest.raises(PatternError, match="too large"):
        compile_re2("(?:[a-z]{1000}){1000}", ignore_case=False)
