"""The ids of characters that span tokens.

While a character is incomplete the engine holds its text back, and names only the token that completes it.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextEncoder(Protocol):
    """What the backend needs of the model's tokenizer."""

    @property
    def vocabulary_size(self) -> int: ...

    def encode_text(self, text: str) -> list[int]: ...

    def token_bytes(self, token_id: int) -> bytes: ...


class ModelTokenizer(TextEncoder, Protocol):
    """A tokenizer that knows how its model ends."""

    @property
    def eos_ids(self) -> frozenset[int]: ...


class Speller:
    """Finds the ids of a text of which the number and the last one are known."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._by_bytes: dict[bytes, int] = {}

    def ids_of(self, text: str, data: bytes | None, count: int, last_id: int) -> Sequence[int]:
        """All ids, or the last alone where the others cannot be known.

        Args:
            text: what was decoded; bytes that were no UTF-8 are U+FFFD.
            data: its bytes, if the engine told them.
            count: how many tokens it is made of, 1 or more.
            last_id: the token that completed it.

        """
        if count == 1:
            return [last_id]
        if _REPLACEMENT not in text:
            ids = self._encoder.encode_text(text)
            if len(ids) == count and ids[-1] == last_id:
                return ids
            data = text.encode()
        return self._spell(data, count, last_id) or [last_id]

    def _spell(self, data: bytes | None, count: int, last_id: int) -> list[int] | None:
        """Other tokens with the same bytes than those that the text encodes to; the longest first."""
        last = self._encoder.token_bytes(last_id)
        if not data or not last or not data.endswith(last):
            return None
        head = self._split(data[: -len(last)], 0, count - 1)
        return None if head is None else [*head, last_id]

    def _split(self, data: bytes, start: int, count: int) -> list[int] | None:
        if count == 0:
            return [] if start == len(data) else None
        for end in range(len(data) - count + 1, start, -1):
            token_id = self._token_of(data[start:end])
            if token_id is not None and _ends_inside_a_character(data[:end]):
                rest = self._split(data, end, count - 1)
                if rest is not None:
                    return [token_id, *rest]
        return None

    def _token_of(self, data: bytes) -> int | None:
        if not self._by_bytes:
            ids = range(self._encoder.vocabulary_size - 1, -1, -1)
            self._by_bytes = {self._encoder.token_bytes(token_id): token_id for token_id in ids}
        return self._by_bytes.get(data)


def _ends_inside_a_character(data: bytes) -> bool:
    """Else the engine would have shown what it had by then."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return decoder.getstate()[0] != b""
