"""Reads JSON in a growing text for the content filter, which checks decoded strings and ignores escapes."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from inference_service.output.content_filter.rules import Action, Rule, Span

if TYPE_CHECKING:  # Scanners import the matching libraries, needed only where there are rules.
    from inference_service.output.content_filter.matching import Scanner

_SPACE = " \t\n\r"
_WORDS = ("true", "false", "null")
_NUMBER_STARTS = "-0123456789"
_NUMBER = f"{_NUMBER_STARTS}+.eE"
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = frozenset("0123456789abcdefABCDEF")
_OPENER = re.compile(r"[{\[]")
_HIGH, _LOW, _PLANES = 0xD800, 0xDC00, 0x10000


@dataclass(slots=True)
class _Range:
    """A range of the text; the end is None while it is open."""

    start: int
    end: int | None = None
    is_broken: bool = False
    """At its end the text turned out not to be JSON."""

    def contains(self, span: Span) -> bool:
        return self.start <= span.start and (self.end is None or span.end <= self.end)

    def breaks_before(self, place: int) -> bool:
        """Whether the text before a place already shows that the range is not JSON."""
        return self.is_broken and self.end is not None and self.end < place

    def overlaps(self, span: Span) -> bool:
        return self.start < span.end and (self.end is None or span.start < self.end)


class _Decoded:
    """The text of one string, with the place in the JSON that each character comes from."""

    def __init__(self, scanners: Sequence[Scanner]) -> None:
        self._scanners = scanners
        self._new = ""
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, char: str, start: int, end: int) -> None:
        self._new += char
        self._starts.append(start)
        self._ends.append(end)

    def take_matches(self, *, final: bool) -> list[Span]:
        """Return the new matches, at their places in the JSON."""
        text, self._new = self._new, ""
        found = [span for scanner in self._scanners for span in scanner.feed(text, final=final)]
        return [
            Span(self._starts[span.start], self._ends[span.end - 1], within_string(span.rule))
            for span in found
        ]

    def safe(self, total: int) -> int:
        """The first place in the JSON where an unreported match may begin; `total` if there is none."""
        safe = min((scanner.safe for scanner in self._scanners), default=len(self._starts))
        return self._starts[safe] if safe < len(self._starts) else total


class JsonText:
    """Reports matches in the decoded strings of JSON, and resolves matches that lie in the raw text.

    JSON begins at any opening bracket, or with a quotation mark at the very beginning. It ends at the
    bracket's counterpart, or where the text is not JSON any more. So this finds tool calls, JSON answers, and
    JSON within ordinary text.

    Args:
        start: makes the scanners for one string.

    """

    def __init__(self, start: Callable[[], Sequence[Scanner]]) -> None:
        self._start = start
        self._at = 0
        self._state: Callable[[str], None] = self._in_plain_text
        self._is_blank = True
        self._depth = 0
        self._token = ""
        self._escape_start = 0
        self._high: tuple[int, int, int] | None = None
        """The first half of a surrogate pair, and its place."""
        self._string: _Decoded | None = None
        self._regions: deque[_Range] = deque()
        self._strings: deque[_Range] = deque()
        self._scalars: deque[_Range] = deque()
        self._found: list[Span] = []
        self.safe = 0
        """Length of the text whose matches are all reported."""

    def feed(self, text: str, *, final: bool = False) -> list[Span]:
        """Take the next piece in; the matches in its strings. After a `final` one nothing more may come."""
        place = 0
        while place < len(text):
            if self._state == self._in_plain_text and not self._is_blank:
                opener = _OPENER.search(text, place)
                skipped = (opener.start() if opener else len(text)) - place
                place, self._at = place + skipped, self._at + skipped
            if place < len(text):
                self._state(text[place])
                place, self._at = place + 1, self._at + 1
        if final:
            self._end_scalar()
            self._end_string()
        elif self._string is not None:
            self._found += self._string.take_matches(final=False)
        self.safe = self._first_open()
        found, self._found = self._found, []
        return found

    def resolve(self, span: Span) -> Span | None:
        """Decide what a match in the raw text does to the JSON; None: nothing.

        Within a string only the decoded text counts. A match within a number or word hides all of it. A match
        that spans more than one value blocks: to hide it would leave no JSON.
        """
        if span.rule.action is Action.BLOCK:
            return span
        if any(string.contains(span) for string in self._strings):
            return None
        scalar = next((scalar for scalar in self._scalars if scalar.contains(span)), None)
        if scalar is not None and scalar.end is not None:
            return Span(scalar.start, scalar.end, _as_string(span.rule))
        if any(region.overlaps(span) and not region.breaks_before(span.end) for region in self._regions):
            return replace(span, rule=replace(span.rule, action=Action.BLOCK))
        return span

    def clip(self, upto: int) -> int:
        """The same place, or the start of the number or word around it: they are released as a whole."""
        inside = (s.start for s in self._scalars if s.start < upto and (s.end is None or upto < s.end))
        return next(inside, upto)

    def forget(self, upto: int) -> None:
        """Forget the text before this place."""
        for ranges in (self._regions, self._strings, self._scalars):
            while ranges and (end := ranges[0].end) is not None and end <= upto:
                ranges.popleft()

    def _first_open(self) -> int:
        if self._state == self._scalar:
            return self._scalars[-1].start
        if self._string is None:
            return self._at
        if self._high is not None:
            return self._string.safe(self._high[1])
        return self._string.safe(self._at if self._state == self._in_string else self._escape_start)

    def _in_plain_text(self, char: str) -> None:
        if char in "{[":
            self._begin(depth=1)
        elif char == '"' and self._is_blank:
            self._begin(depth=0)
            self._begin_string()
        self._is_blank = self._is_blank and char in _SPACE

    def _begin(self, depth: int) -> None:
        self._depth = depth
        self._regions.append(_Range(self._at))
        self._state = self._structure

    def _structure(self, char: str) -> None:
        if char == '"':
            self._begin_string()
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            self._end_if_whole()
        elif char in _NUMBER_STARTS or char in "tfn":
            self._token = char
            self._scalars.append(_Range(self._at))
            self._state = self._scalar
        elif char not in _SPACE and char not in ":,":
            self._break(char)

    def _end_if_whole(self) -> None:
        if self._depth <= 0:
            self._regions[-1].end = self._at + 1
            self._is_blank = False
            self._state = self._in_plain_text

    def _break(self, char: str) -> None:
        """The text is not JSON any more: treat it as ordinary text."""
        self._end_scalar()
        self._end_string()
        self._regions[-1].end, self._regions[-1].is_broken = self._at, True
        self._is_blank = False
        self._state = self._in_plain_text
        self._in_plain_text(char)

    def _scalar(self, char: str) -> None:
        if self._token[0] in _NUMBER_STARTS:
            goes_on = char in _NUMBER
        else:
            goes_on = any(word.startswith(self._token + char) for word in _WORDS)
        if goes_on:
            self._token += char
        elif self._token[0] in "tfn" and self._token not in _WORDS:
            self._break(char)
        else:
            self._end_scalar()
            self._structure(char)

    def _end_scalar(self) -> None:
        if self._state == self._scalar:
            self._scalars[-1].end = self._at
            self._state = self._structure

    def _begin_string(self) -> None:
        self._string = _Decoded(self._start())
        self._strings.append(_Range(self._at + 1))
        self._state = self._in_string

    def _end_string(self) -> None:
        if self._string is not None:
            self._emit_half()
            self._found += self._string.take_matches(final=True)
            self._strings[-1].end = self._at
            self._string = None
            self._state = self._structure

    def _in_string(self, char: str) -> None:
        if char == '"':
            self._end_string()
            self._end_if_whole()
        elif char == "\\":
            self._escape_start = self._at
            self._state = self._escape
        elif char < " ":
            self._break(char)
        else:
            self._emit(char, self._at)

    def _escape(self, char: str) -> None:
        if char == "u":
            self._token = ""
            self._state = self._code
        elif char in _ESCAPES:
            self._emit(_ESCAPES[char], self._escape_start)
        else:
            self._break(char)

    def _code(self, char: str) -> None:
        if char not in _HEX:
            self._break(char)
            return
        self._token += char
        if len(self._token) == len("0000"):
            self._emit_unit(int(self._token, 16))

    def _emit(self, char: str, start: int) -> None:
        self._emit_half()
        if self._string is not None:
            self._string.add(char, start, self._at + 1)
        self._state = self._in_string

    def _emit_unit(self, unit: int) -> None:
        """A UTF-16 code unit: a character, or half of one."""
        if self._high is not None and _LOW <= unit < _LOW + 0x400:
            high, start, _ = self._high
            self._high = None
            self._emit(chr(_PLANES + ((high - _HIGH) << 10) + unit - _LOW), start)
        elif _HIGH <= unit < _LOW:
            self._emit_half()
            self._high = unit, self._escape_start, self._at + 1
            self._state = self._in_string
        else:
            self._emit(chr(unit), self._escape_start)

    def _emit_half(self) -> None:
        if self._high is not None and self._string is not None:
            _, start, end = self._high
            self._string.add("\ufffd", start, end)
        self._high = None


@lru_cache(maxsize=4096)
def within_string(rule: Rule) -> Rule:
    """The rule for the text of a string: what takes the place of a match is spelled as JSON."""
    return replace(rule, replacement=_as_json(rule)[1:-1])


@lru_cache(maxsize=4096)
def _as_string(rule: Rule) -> Rule:
    """The rule for a number or word: a string takes its place."""
    return replace(rule, replacement=_as_json(rule))


def _as_json(rule: Rule) -> str:
    return json.dumps(rule.replacement, ensure_ascii=False)
