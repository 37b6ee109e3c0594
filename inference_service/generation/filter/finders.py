"""Finding every match of many phrases, or of many patterns, in a stretch of text.

A finder knows nothing of streams. It is made once for all texts, and asked two things about a stretch, with
the character before it: which matches are in there, and where the first one may begin that more text could
complete or lengthen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ahocorasick_rs import AhoCorasick

from inference_service.generation.filter.folding import FOLDINGS, Folding, is_word
from inference_service.generation.filter.regex import NOT_WORD, Expression, compile_re2, translate
from inference_service.generation.filter.rules import Rule, Span


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
        # What was found dead is not in the next stretch any more: each start is buried once.
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
        # Bytes spare RE2's binding a conversion of the whole stretch for each match.
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
    """Make the finders for some rules, each with the folding of the texts it is to be asked about."""
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
    """Whether a word goes on at `start`, seen from its left."""
    left = text[start - 1] if start else before
    return left != "" and is_word(left)


def _stands_alone(text: str, before: str, start: int, end: int) -> bool:
    return not _is_inside(text, before, start) and (end == len(text) or not is_word(text[end]))
