"""Finding stop sequences in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop sequence was met."""

    sequence: str
    start: int
    """Offset of its first character in the whole text."""


class _Pattern:
    """One stop sequence as a Knuth-Morris-Pratt automaton: linear in the text, whatever the cuts."""

    __slots__ = ("failure", "matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        """Length of the longest prefix of `text` that the input seen so far ends with."""
        self.failure = _failure_table(text)

    def advance(self, char: str) -> bool:
        """Take one character in; True once the whole sequence has been seen."""
        while self.matched and self.text[self.matched] != char:
            self.matched = self.failure[self.matched - 1]
        if self.text[self.matched] == char:
            self.matched += 1
        return self.matched == len(self.text)


def _failure_table(text: str) -> list[int]:
    table = [0] * len(text)
    length = 0
    for position in range(1, len(text)):
        while length and text[position] != text[length]:
            length = table[length - 1]
        length += text[position] == text[length]
        table[position] = length
    return table


class StopMatcher:
    """Watches a growing text for the first stop sequence to be completed.

    `safe` is the length of the text that can be shown: nothing before it can still become part of a
    stop sequence. Where two sequences complete with the same character, the longer one counts.

    Args:
        sequences: the stop sequences, none empty.
        include: the sequence that is met is part of what can be shown.

    """

    def __init__(self, sequences: Sequence[str], *, include: bool = False) -> None:
        self._include = include
        self._patterns = [_Pattern(s) for s in sorted(set(sequences), key=len, reverse=True)]
        self._seen = 0
        self.safe = 0
        self.match: StopMatch | None = None

    def feed(self, text: str) -> None:
        """Take the next piece in. After a match nothing more may be fed."""
        if not self._patterns:
            self._seen = self.safe = self._seen + len(text)
            return
        for char in text:
            self._seen += 1
            if self._advance(char):
                return
        self.safe = self._seen - (0 if self._include else max(p.matched for p in self._patterns))

    def _advance(self, char: str) -> bool:
        # Every pattern must see the character, so no early exit before the longest is known.
        complete = [p for p in self._patterns if p.advance(char)]
        if not complete:
            return False
        found = complete[0].text
        self.match = StopMatch(found, self._seen - len(found))
        self.safe = self._seen if self._include else self.match.start
        return True
