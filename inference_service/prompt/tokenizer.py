"""Encodes text to token ids and decodes token ids to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from inference_service.prompt.control_tokens import ControlTexts


class Encoder(Protocol):
    """The library's part: text without control or added tokens, to ids."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text that is not empty."""
        ...


class Tokenizer:
    """A model's tokenizer, for text that comes from callers.

    Control tokens cannot be written: a text that spells one is encoded as the characters it is made
    of, unless the caller asks for another reading of a raw prompt. All methods are safe to call from
    several threads.

    Args:
        encoder: encodes ordinary text.
        pieces: the bytes of every token by id; empty for control tokens.
        control_tokens: the ids of control tokens by their text.
        added_tokens: the ids of tokens that are found in a text before anything else.
        bos_id: the token that begins a text.
        eos_ids: every token that ends a generation.
        add_bos: whether a prompt begins with the BOS token.

    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        pieces: Sequence[bytes],
        control_tokens: Mapping[str, int],
        added_tokens: Mapping[str, int],
        bos_id: int | None,
        eos_ids: frozenset[int],
        add_bos: bool,
    ) -> None:
        self._encoder = encoder
        self._pieces = tuple(pieces)
        # The longest first, whatever their order in the text, as llama.cpp looks for them.
        self._added = sorted(added_tokens.items(), key=lambda item: len(item[0].encode()), reverse=True)
        self._prefix = [bos_id] if add_bos and bos_id is not None else []
        self.control_tokens: Mapping[str, int] = MappingProxyType(dict(control_tokens))
        self.control_texts = ControlTexts(control_tokens)
        """Finds the control tokens in a text."""
        self._control_texts = {index: text for text, index in control_tokens.items()}
        self.longest_token: int = (
            max(map(len, (*self._pieces, *map(str.encode, control_tokens))), default=1) or 1
        )
        """Bytes of the longest token: no text has fewer tokens than its bytes divided by this."""
        self.bos_id = bos_id
        self.eos_ids = eos_ids

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are; valid ids are below it."""
        return len(self._pieces)

    def encode_text(self, text: str) -> list[int]:
        """The ids of a text, with nothing added. Empty for an empty text."""
        ids: list[int] = []
        for part in self._split_added(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids.extend(self._encoder.encode(part))
        return ids

    def encode_prompt(self, text: str, *, parse_special: bool = False) -> list[int]:
        """The ids of a raw prompt, begun by the BOS token where the model wants one.

        Args:
            text: the prompt.
            parse_special: reads the texts of control tokens as those tokens, a BOS at the beginning too.

        """
        if not parse_special:
            return self._prefix + self.encode_text(text)
        ids: list[int] = []
        for part in self.control_texts.split(text):
            ids += [part] if isinstance(part, int) else self.encode_text(part)
        return self.begin(ids)

    def begin(self, ids: list[int]) -> list[int]:
        """A rendered prompt, begun by the BOS token where the model wants one and it has none yet."""
        return ids if ids[: len(self._prefix)] == self._prefix else self._prefix + ids

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token stands for, maybe part of a character; none for a control token.

        Raises:
            IndexError: there is no such token.

        """
        return self._pieces[token_id]

    def token_text(self, token_id: int) -> str:
        """A token as it may be shown: U+FFFD for bytes that are part of a character, control tokens by name.

        Raises:
            IndexError: there is no such token.

        """
        return self._control_texts.get(token_id) or self._pieces[token_id].decode("utf-8", "replace")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that form no character become U+FFFD.

        Raises:
            IndexError: one of them is no token.

        """
        return b"".join([self._pieces[index] for index in ids]).decode("utf-8", "replace")

    def _split_added(self, text: str) -> list[str | int]:
        parts: list[str | int] = [text] if text else []
        for token, index in self._added:
            if token in text:
                parts = [piece for part in parts for piece in _split(part, token, index)]
        return parts


def _split(part: str | int, token: str, index: int) -> list[str | int]:
    if isinstance(part, int):
        return [part]
    pieces: list[str | int] = []
    for position, text in enumerate(part.split(token)):
        if position:
            pieces.append(index)
        if text:
            pieces.append(text)
    return pieces
