"""From engine steps to text that may be shown."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Detokenizer(Protocol):
    """What turning ids into text takes."""

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of a token; none for a control token."""
        ...


class IncrementalDecoder:
    """Token ids to text, whole code points only.

    Works on bytes, so a character may span any number of tokens. Bytes that are no UTF-8 become
    U+FFFD; an unfinished character at the very end is dropped.
    """

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._bytes_of = detokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        return self._utf8.decode(self._bytes_of(token_id))

    @property
    def is_mid_character(self) -> bool:
        return self._utf8.getstate()[0] != b""


@dataclass(frozen=True, slots=True)
class Release:
    """Text that may leave, with the tokens that are complete with it."""

    text: str
    token_ids: Sequence[int]
    token_count: int

    def __bool__(self) -> bool:
        return bool(self.text or self.token_count)


class HoldBuffer:
    """Holds text back until it is known to be showable, and each token until the last of its text leaves."""

    def __init__(self) -> None:
        self._held = ""
        self._released = 0
        self._total = 0
        self._tokens: deque[tuple[int, Sequence[int], int]] = deque()

    def add(self, text: str, token_ids: Sequence[int], token_count: int) -> None:
        """Append text and the tokens it completes."""
        self._held += text
        self._total += len(text)
        self._tokens.append((self._total, token_ids, token_count))

    def release(self, upto: int) -> Release:
        """Let go of the text before offset `upto` of the whole text."""
        count = upto - self._released
        text, self._held = self._held[:count], self._held[count:]
        self._released = upto
        ids: list[int] = []
        tokens = 0
        while self._tokens and self._tokens[0][0] <= upto:
            _, piece_ids, piece_count = self._tokens.popleft()
            ids.extend(piece_ids)
            tokens += piece_count
        return Release(text, ids, tokens)

    def release_all(self) -> Release:
        return self.release(self._total)
