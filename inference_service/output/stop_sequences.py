"""Finds the first stop sequence in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop sequence that is complete."""

    sequence: str
    start: int
    """Offset of its first character in the whole text."""


class StopSequences:
    """Reports how much of a growing text is safe to release, and where a stop sequence ends it.

    `safe` is the length of the text that can be released: nothing before it can become part of a stop
    sequence. Where two sequences are complete with the same character, the longer one counts.

    Args:
        sequences: the stop sequences, none empty.
        include: the sequence that matches is released too.

    """

    def __init__(self, sequences: Sequence[str], *, include: bool = False) -> None:
        self._include = include
        self._sequences = tuple(dict.fromkeys(sequences))
        self._tail = ""
        """The longest end of the text that a stop sequence may begin with."""
        self._total = 0
        self.safe = 0
        self.match: StopMatch | None = None

    def feed(self, text: str) -> None:
        """Take the next piece of text. After a match nothing more may be fed."""
        window = self._tail + text
        start = self._total - len(self._tail)
        self._total += len(text)
        self.match = self._find(window, start)
        if self.match is not None:
            end = self.match.start + len(self.match.sequence)
            self.safe = end if self._include else self.match.start
            return
        self._tail = window[self._held_from(window) :]
        self.safe = self._total if self._include else self._total - len(self._tail)

    def _find(self, window: str, start: int) -> StopMatch | None:
        """Return the match that ends first, the longest of those that end together."""
        found: StopMatch | None = None
        first_end = len(window) + 1
        for sequence in self._sequences:
            at = window.find(sequence)
            if at < 0:
                continue
            end = at + len(sequence)
            if end < first_end or (found and end == first_end and len(sequence) > len(found.sequence)):
                found, first_end = StopMatch(sequence, start + at), end
        return found

    def _held_from(self, window: str) -> int:
        """Return the offset of the longest end of `window` that is the beginning of a stop sequence."""
        held = len(window)
        for sequence in self._sequences:
            at = window.find(sequence[0], max(0, len(window) - len(sequence) + 1), held)
            while at >= 0 and not sequence.startswith(window[at:]):
                at = window.find(sequence[0], at + 1, held)
            if at >= 0:
                held = at
        return held
