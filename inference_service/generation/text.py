"""From engine steps to text that may be shown."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inference_service.backends.types import TokenLogprob


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
class Piece:
    """Text on its way to the caller, with the tokens that are complete with it."""

    text: str
    token_ids: Sequence[int] = ()
    token_count: int = 0
    """How many tokens those are; more than `token_ids` where some cannot or must not be named."""
    logprobs: Sequence[TokenLogprob] = ()
    """Where asked for: one for each of `token_ids`."""

    def __bool__(self) -> bool:
        return bool(self.text or self.token_count)

    def __add__(self, other: Piece) -> Piece:
        return Piece(
            self.text + other.text,
            [*self.token_ids, *other.token_ids],
            self.token_count + other.token_count,
            [*self.logprobs, *other.logprobs],
        )


class HoldBuffer:
    """Holds text back until it is known to be showable, and each token until the last of its text leaves."""

    def __init__(self) -> None:
        self._held = ""
        self._released = 0
        self._total = 0
        self._pieces: deque[tuple[int, Piece]] = deque()

    @property
    def total(self) -> int:
        """Length of all text that was added, in characters."""
        return self._total

    def add(self, piece: Piece) -> None:
        """Append text and the tokens it completes."""
        self._held += piece.text
        self._total += len(piece.text)
        self._pieces.append((self._total, piece))

    def release(self, upto: int) -> Piece:
        """Let go of the text before offset `upto` of the whole text."""
        count = upto - self._released
        text, self._held = self._held[:count], self._held[count:]
        self._released = upto
        ids: list[int] = []
        logprobs: list[TokenLogprob] = []
        tokens = 0
        while self._pieces and self._pieces[0][0] <= upto:
            _, piece = self._pieces.popleft()
            ids.extend(piece.token_ids)
            logprobs.extend(piece.logprobs)
            tokens += piece.token_count
        return Piece(text, ids, tokens, logprobs)

    def release_all(self) -> Piece:
        return self.release(self._total)
