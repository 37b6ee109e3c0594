"""Sealing everything that callers wrote before a template sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from inference_service.generation.control_texts import ControlTexts, new_seal, sealed


class Sealer:
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
        """A text with seals at its weak points."""
        points = self._control.weak_points(text)
        self._is_used |= bool(points)
        return sealed(text, points, self._seal) if points else text

    def value(self, value: Any, words: Set[str] = frozenset()) -> Any:
        """A JSON value with every key and string sealed that is none of the given words."""
        if isinstance(value, str):
            return value if value in words else self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key, words): self.value(item, words) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, words) for item in value]
        return value

    def unsealed(self, text: str) -> str:
        """A text of the prompt as it was before."""
        return text.replace(self._seal, "") if self._is_used else text
