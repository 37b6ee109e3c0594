"""Text as phrases are compared: the many spellings of a character made one.

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
from collections.abc import Sequence

_SPACES = str.maketrans(dict.fromkeys("\t\n\v\f\r\x1c\x1d\x1e\x1f", " "))
_INVISIBLE = re.compile(r"[\u034f\u115f\u1160\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""What is seen as nothing, beside the format characters (category Cf)."""


class Folding:
    """One way to fold."""

    def __init__(self, *, ignore_case: bool) -> None:
        self._ignore_case = ignore_case
        self._fold_char = functools.lru_cache(maxsize=4096)(self._compute)

    def fold(self, text: str) -> str:
        """Fold a text whose offsets do not matter."""
        return self.trace(text, 0)[0]

    def trace(self, text: str, offset: int) -> tuple[str, Sequence[int]]:
        """Fold a text that begins at `offset`; say of each folded character which offset it came from."""
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
