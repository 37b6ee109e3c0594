"""Texts, cuts and stop sequences that are hard to stream."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st

THOROUGH = settings(max_examples=200, deadline=None)

HARD_PIECES = (
    "👩\u200d👩\u200d👧\u200d👦",  # four emoji, three joiners
    "👍🏽",  # an emoji and its skin tone
    "🇫🇷",  # two regional indicators
    "漢字仮名",
    "한국어",
    "e\u0301",  # a letter and a combining accent
    "नमस्ते",
    "\u202eabc\u202c",  # right-to-left override
    "\x00\x07\x1b[0m",
    "\r\n",
    "\ufeff",
    "\ufffd",  # the replacement character itself, as text
    "\U0010ffff",
)

T = TypeVar("T", str, bytes, list[int])


class Slices:
    """A detokenizer whose tokens are arbitrary slices of some bytes: token n is slice n."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts

    def token_bytes(self, token_id: int) -> bytes:
        return self._parts[token_id]

    def token_text(self, token_id: int) -> str:
        return self.token_bytes(token_id).decode("utf-8", "replace")


def hard_texts(max_pieces: int = 12) -> st.SearchStrategy[str]:
    """Any text: plain, repetitive, of any script, with control characters."""
    piece = st.one_of(st.sampled_from(HARD_PIECES), st.text(max_size=6), repetitive_texts(8))
    return st.lists(piece, max_size=max_pieces).map("".join)


def repetitive_texts(max_size: int = 40) -> st.SearchStrategy[str]:
    """Texts of few letters, in which short texts occur often and overlap."""
    return st.text(alphabet="ab漢😀", max_size=max_size)


@st.composite
def stop_sets(draw: st.DrawFn, text: str) -> list[str]:
    """At most 4 stop sequences, many of which occur in `text`, overlap, or have common beginnings."""
    stops = draw(st.lists(st.text(alphabet="ab漢😀", min_size=1, max_size=6), max_size=2))
    while text and len(stops) < 4 and draw(st.booleans()):
        start = draw(st.integers(0, len(text) - 1))
        length = draw(st.integers(1, 12))
        stops.append(text[start : start + length] + draw(st.sampled_from(["", "", "!"])))
    return stops


@st.composite
def cuts(draw: st.DrawFn, whole: T) -> list[T]:
    """Random marks that cut `whole` into slices, which may be empty."""
    return slices(whole, draw(st.lists(st.integers(0, len(whole)), max_size=20)))


def slices(whole: T, marks: Sequence[int]) -> list[T]:
    """The slices of `whole` between the marks."""
    edges = [0, *sorted(marks), len(whole)]
    return [whole[start:end] for start, end in pairwise(edges)]


def until_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The visible part of `text`, and the stop sequence that ends it, found by trying every end.

    The first one completed counts; of several that complete together, the longest.
    """
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None
