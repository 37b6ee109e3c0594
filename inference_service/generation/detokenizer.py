"""Turns token ids into text, whole characters only."""

from __future__ import annotations

import codecs

from inference_service.generation.scores import TokenNames


class Detokenizer:
    """Decodes the tokens of one choice as they come.

    Works on bytes, so a character may span any number of tokens. Bytes that are not UTF-8 become U+FFFD; an
    unfinished character at the very end is dropped.
    """

    def __init__(self, names: TokenNames) -> None:
        self._bytes_of = names.token_bytes
        self._pending = b""
        """The bytes of an unfinished character."""

    def feed(self, token_id: int) -> str:
        """Take the next token; return the characters that are complete with it."""
        data = self._pending + self._bytes_of(token_id)
        text, consumed = codecs.utf_8_decode(data, "replace", False)
        pending = data[consumed:]
        if pending and _is_surrogate(pending):
            text, pending = text + pending.decode("utf-8", "replace"), b""
        self._pending = pending
        return text

    @property
    def is_mid_character(self) -> bool:
        """Whether the latest token ends within a character."""
        return bool(self._pending)


def _is_surrogate(pending: bytes) -> bool:
    """Whether these bytes begin a surrogate: no character, though the codec waits for its third byte."""
    return len(pending) == 2 and pending[0] == 0xED and pending[1] >= 0xA0
