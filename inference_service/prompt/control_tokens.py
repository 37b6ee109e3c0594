"""Keeps a caller's text from becoming control tokens of the prompt."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any


def new_seal(texts: Iterable[str]) -> str:
    """A random mark that none of the texts contains.

    It is made of digits, which no filter of a template changes. Its first digit occurs nowhere else in
    it, so a mark never overlaps another mark or the text around it, and can be removed exactly.
    """
    known = list(texts)
    while True:
        seal = f"9{secrets.randbits(96):032o}"
        if not any(seal in text for text in known):
            return seal


class ControlTexts:
    """The texts of a model's control tokens.

    A caller's text must not contribute one character to a control token of the rendered prompt. Where
    it could, the escaper inserts a mark: inside every control text that the text spells, and at its edges
    where it could complete one together with the template's text beside it, before or after the template
    strips white space. The marks are removed after the control tokens of the prompt are found.

    Tokens of a single character are ignored, so they are never found in a prompt.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._ids = {text: index for text, index in tokens.items() if len(text) > 1}
        texts = sorted(self._ids, key=len, reverse=True)
        # The longest first, so that a token is not mistaken for another that it begins with.
        alternatives = "|".join(map(re.escape, texts)) or "(?!)"
        self._any = re.compile(alternatives)
        self._splitter = re.compile(f"({alternatives})")
        self._beginnings = {text[:size] for text in texts for size in range(1, len(text))}
        self._endings = {text[-size:] for text in texts for size in range(1, len(text))}
        self._first = {text[0] for text in texts}
        self._last = {text[-1] for text in texts}
        self._joined = "\0".join(texts)
        self._reach = max(map(len, texts), default=1) - 1

    def weak_points(self, text: str) -> list[int]:
        """Positions where a text needs a mark, in order; empty for nearly every text."""
        points = set(self._spelled(text))
        core = text.strip()
        for edged in {text, core} - {""}:
            start = text.index(edged)
            points.update(start + point for point in self._at_edges(edged))
        return sorted(points)

    def are_in(self, text: str) -> bool:
        """Whether a text spells a control token."""
        return self._any.search(text) is not None

    def split(self, prompt: str) -> Iterator[str | int]:
        """The control tokens of a prompt as ids, and the texts between them, which may be empty."""
        for position, part in enumerate(self._splitter.split(prompt)):
            yield self._ids[part] if position % 2 else part

    def _spelled(self, text: str) -> Iterator[int]:
        match = self._any.search(text)
        while match:
            yield match.start() + 1
            match = self._any.search(text, match.start() + 1)

    def _at_edges(self, text: str) -> Iterator[int]:
        sizes = range(1, min(len(text), self._reach) + 1)
        if not self._last.isdisjoint(text[: sizes.stop]) and any(
            text[:size] in self._endings for size in sizes
        ):
            yield 0
        if len(text) < self._reach and text in self._joined:
            yield 0
        if not self._first.isdisjoint(text[-sizes.stop :]):
            yield from (len(text) - size + 1 for size in sizes if text[-size:] in self._beginnings)


def sealed(text: str, points: Iterable[int], seal: str) -> str:
    """A text with marks at the given positions, which are in ascending order."""
    parts: list[str] = []
    start = 0
    for point in points:
        parts += (text[start:point], seal)
        start = point
    return "".join([*parts, text[start:]])


class ControlTokenEscaper:
    """Keeps texts of one prompt from contributing to its control tokens; see `ControlTexts`.

    Args:
        control: the control tokens.
        texts: everything that callers wrote, in any arrangement.

    """

    def __init__(self, control: ControlTexts, texts: Iterable[str]) -> None:
        self._control = control
        self._seal = new_seal(texts)
        self._is_used = False

    def text(self, text: str) -> str:
        """A text with marks at its weak points."""
        points = self._control.weak_points(text)
        self._is_used |= bool(points)
        return sealed(text, points, self._seal) if points else text

    def value(self, value: Any, words: Set[str] = frozenset()) -> Any:
        """A JSON value in which every key and string is escaped, except the given words."""
        if isinstance(value, str):
            return value if value in words else self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key, words): self.value(item, words) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, words) for item in value]
        return value

    def unsealed(self, text: str) -> str:
        """A text of the prompt without the marks."""
        return text.replace(self._seal, "") if self._is_used else text
