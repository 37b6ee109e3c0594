"""Following a growing text with a finder."""

from __future__ import annotations

import re

from inference_service.generation.filter.finders import Finder
from inference_service.generation.filter.folding import Folding
from inference_service.generation.filter.rules import Span

_SURROGATES = re.compile("[\ud800-\udfff]")


class Scanner:
    """Reports each match in a text that arrives in pieces, as soon as it cannot grow any more.

    `safe` is the length of the text about which all is known: no match that is yet to be reported begins
    before it.
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
