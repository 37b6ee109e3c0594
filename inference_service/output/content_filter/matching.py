"""Finds the matches of many phrases or patterns in a growing text.

A finder keeps no state of a stream: one finder serves all texts. For a part of a text, and the character
before it, it reports two things: the matches in the part, and the offset of the first match that more
text could complete or lengthen.

Each character is folded by itself, so an offset in folded text always belongs to one character of the text
it came from, however many characters that one became (ß → ss) or whether it vanished (a zero-width joiner).
Folding is compatibility decomposition (NFKD: fullwidth letters, ligatures, accents apart from their
letters), full case folding unless case counts, white space of any kind to a space, and invisible characters
to nothing. Letters of other scripts that merely look alike stay different, and so do accents that are
written in another order.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ahocorasick_rs import AhoCorasick

from inference_service.output.content_filter.patterns import NOT_WORD, Expression, compile_re2, translate
from inference_service.output.content_filter.rules import Rule, Span


class Finder(Protocol):
    """Finds the matches of some rules."""

    def find(self, text: str, before: str) -> Iterator[Span]:
        """Every match, overlapping ones too, or of those with a common start and rule the longest."""
        ...

    def first_open(self, text: str, before: str) -> int:
        """Offset from which more text could complete or lengthen a match; the length of `text` if none."""
        ...


class PhraseFinder:
    """Finds phrases in folded text: an Aho-Corasick automaton, linear in the text."""

    def __init__(self, rules: Iterable[Rule], folding: Folding, *, whole_word: bool) -> None:
        self._owners: dict[str, list[Rule]] = {}
        for rule in rules:
            for phrase in rule.phrases:
                self._owners.setdefault(folding.fold(phrase), []).append(rule)
        self._phrases = sorted(self._owners)
        self._automaton = AhoCorasick(self._phrases, store_patterns=False)
        self._longest = max(map(len, self._phrases))
        self._whole_word = whole_word

    def find(self, text: str, before: str) -> Iterator[Span]:
        for number, start, end in self._automaton.find_matches_as_indexes(text, overlapping=True):
            if not self._whole_word or _stands_alone(text, before, start, end):
                for rule in self._owners[self._phrases[number]]:
                    yield Span(start, end, rule)

    def first_open(self, text: str, before: str) -> int:
        # Starts that cannot match any more are dropped from the window: each is checked once.
        starts = range(max(0, len(text) - self._longest), len(text))
        return next((start for start in starts if self._is_open(text, before, start)), len(text))

    def _is_open(self, text: str, before: str, start: int) -> bool:
        if self._whole_word and _is_inside(text, before, start):
            return False
        tail = text[start:]
        at = bisect_left(self._phrases, tail)
        if at < len(self._phrases) and self._phrases[at] == tail:
            if self._whole_word:
                return True  # the next character decides
            at += 1
        return at < len(self._phrases) and self._phrases[at].startswith(tail)


class PatternFinder:
    """Finds patterns by RE2: linear in the text, at most `regex.WIDEST` times for text in small pieces."""

    def __init__(self, rules: Sequence[Rule], *, ignore_case: bool, whole_word: bool) -> None:
        expressions = {rule: [translate(pattern) for pattern in rule.patterns] for rule in rules}
        everything = [expression for found in expressions.values() for expression in found]
        self._any = compile_re2(_union(e.whole for e in everything), ignore_case=ignore_case)
        self._open = compile_re2(_open(everything, whole_word=whole_word), ignore_case=ignore_case)
        tail = rf"(?:{NOT_WORD}|\z)" if whole_word else ""
        self._rules = [
            (rule, compile_re2(f"({_union(e.whole for e in found)}){tail}", ignore_case=ignore_case))
            for rule, found in expressions.items()
        ]
        self._whole_word = whole_word

    def find(self, text: str, before: str) -> Iterator[Span]:
        # RE2's binding would convert a str again for each match.
        encoded = text.encode()
        found = self._any.search(encoded)
        offsets = _char_offsets(text) if found else ()
        while found:
            start = found.start()
            if not self._whole_word or not _is_inside(text, before, offsets[start]):
                yield from self._at(encoded, start, offsets)
            found = self._any.search(encoded, start + 1)

    def _at(self, encoded: bytes, start: int, offsets: Sequence[int]) -> Iterator[Span]:
        for rule, expression in self._rules:
            if found := expression.match(encoded, start):
                yield Span(offsets[start], offsets[found.end(1)], rule)

    def first_open(self, text: str, before: str) -> int:
        start: int = self._open.search(text).start()
        while start < len(text) and self._whole_word and _is_inside(text, before, start):
            start = self._open.search(text, start + 1).start()
        return start


def finders(rules: Sequence[Rule]) -> Iterator[tuple[Finder, Folding | None]]:
    """Make the finders for some rules, each with the folding of the texts that it searches."""
    for ignore_case, folding in FOLDINGS.items():
        for whole_word in (True, False):
            alike = [r for r in rules if (r.ignore_case, r.whole_word) == (ignore_case, whole_word)]
            if phrased := [rule for rule in alike if rule.phrases]:
                yield PhraseFinder(phrased, folding, whole_word=whole_word), folding
            if patterned := [rule for rule in alike if rule.patterns]:
                yield PatternFinder(patterned, ignore_case=ignore_case, whole_word=whole_word), None


def _union(sources: Iterable[str]) -> str:
    return f"(?:{'|'.join(sources)})"


def _open(expressions: Sequence[Expression], *, whole_word: bool) -> str:
    sources = [expression.unfinished for expression in expressions]
    if whole_word:
        sources += [expression.whole for expression in expressions]  # the next character decides
    return _union(sources) + r"\z"


def _char_offsets(text: str) -> Sequence[int]:
    """For each offset in the UTF-8 of a text, the end included: the offset of its character."""
    if text.isascii():
        return range(len(text) + 1)
    return [at for at, char in enumerate(text) for _ in char.encode()] + [len(text)]


def _is_inside(text: str, before: str, start: int) -> bool:
    """Whether the character before `start` belongs to a word."""
    left = text[start - 1] if start else before
    return left != "" and is_word(left)


def _stands_alone(text: str, before: str, start: int, end: int) -> bool:
    return not _is_inside(text, before, start) and (end == len(text) or not is_word(text[end]))


_SURROGATES = re.compile("[\ud800-\udfff]")


class Scanner:
    """Reports each match in a text that arrives in pieces, as soon as it cannot grow any more.

    `safe` is the length of the text whose matches are all reported: no later match begins before it.
    """

    def __init__(self, finder: Finder, folding: Folding | None) -> None:
        self._finder = finder
        self._folding = folding
        self._window = ""
        """Text as the finder sees it, from the first character that an open match may begin with."""
        self._origins: list[int] = []
        """For each character of the window: the offset of the one it came from."""
        self._before = ""
        """The character before the window."""
        self._total = 0
        self.safe = 0

    def feed(self, text: str, *, final: bool = False) -> list[Span]:
        """Take the next piece in; after a `final` one nothing more may come."""
        self._append(text)
        known = len(self._window) if final else self._finder.first_open(self._window, self._before)
        found = [self._locate(s) for s in self._finder.find(self._window, self._before) if s.start < known]
        self._forget(known)
        self.safe = self._origins[0] if self._origins else self._total
        return found

    def _append(self, text: str) -> None:
        plain = text if text.isascii() else _SURROGATES.sub("\ufffd", text)
        if self._folding is None:
            self._window += plain
            self._origins.extend(range(self._total, self._total + len(text)))
        else:
            folded, origins = self._folding.trace(plain, self._total)
            self._window += folded
            self._origins.extend(origins)
        self._total += len(text)

    def _locate(self, span: Span) -> Span:
        return Span(self._origins[span.start], self._origins[span.end - 1] + 1, span.rule)

    def _forget(self, count: int) -> None:
        if count:
            self._before = self._window[count - 1]
            self._window = self._window[count:]
            del self._origins[:count]


_SPACES = str.maketrans(dict.fromkeys("\t\n\v\f\r\x1c\x1d\x1e\x1f", " "))
_INVISIBLE = re.compile(r"[\u034f\u115f\u1160\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Characters that are invisible, in addition to the format characters (category Cf)."""


class Folding:
    """One way to fold."""

    def __init__(self, *, ignore_case: bool) -> None:
        self._ignore_case = ignore_case
        self._fold_char = functools.lru_cache(maxsize=4096)(self._compute)

    def fold(self, text: str) -> str:
        """Fold a text whose offsets do not matter."""
        return self.trace(text, 0)[0]

    def trace(self, text: str, offset: int) -> tuple[str, Sequence[int]]:
        """Fold a text that begins at `offset`; also return the original offset of each folded character."""
        if text.isascii():
            folded = text.lower() if self._ignore_case else text
            return folded.translate(_SPACES), range(offset, offset + len(text))
        parts = [self._fold_char(char) for char in text]
        origins = [at for at, part in enumerate(parts, offset) for _ in part]
        return "".join(parts), origins

    def _compute(self, char: str) -> str:
        folded = unicodedata.normalize("NFKD", char)
        if self._ignore_case:
            # The steps of a compatibility caseless match (The Unicode Standard, section 3.13, D146).
            folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", char).casefold())
            folded = unicodedata.normalize("NFKD", folded.casefold())
        return "".join(" " if c.isspace() else c for c in folded if not _is_invisible(c))


FOLDINGS = {ignore_case: Folding(ignore_case=ignore_case) for ignore_case in (True, False)}
"""Whether case is ignored → how to fold."""


def is_word(char: str) -> bool:
    """Whether a character belongs to a word: letters, their marks, digits, the underscore."""
    return char == "_" or unicodedata.category(char)[0] in "LMN"


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) == "Cf" or _INVISIBLE.match(char) is not None
