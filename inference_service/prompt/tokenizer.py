"""Encodes text to token ids and decodes ids to text, so that no caller can write a control token."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, Protocol


class Encoder(Protocol):
    """The library's encoder, for text without control or added tokens."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text that is not empty."""
        ...


class Tokenizer:
    """A model's tokenizer, for text that comes from callers.

    Control tokens cannot be written: a text that spells one is encoded as its characters, unless the
    caller sets `parse_special` for a raw prompt. All methods are safe to call from
    several threads.

    Args:
        encoder: encodes ordinary text.
        pieces: the bytes of every token by id; empty for control tokens.
        control_tokens: the ids of control tokens by their text.
        added_tokens: the ids of tokens that are matched in a text before the encoder sees it.
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
        """The ids of a raw prompt, with the BOS token first where the model uses one.

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
        """A rendered prompt, with the BOS token first where the model uses one and the prompt lacks it."""
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


def new_mark(texts: Iterable[str]) -> str:
    """A random mark that none of the texts contains.

    It consists of digits, because no filter of a template changes digits. Its first digit occurs nowhere else
    in it, so a mark never overlaps another mark or the text around it, and can be removed exactly.
    """
    known = list(texts)
    while True:
        mark = f"9{secrets.randbits(96):032o}"
        if not any(mark in text for text in known):
            return mark


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


def insert_marks(text: str, points: Iterable[int], mark: str) -> str:
    """A text with marks at the given positions, which are in ascending order."""
    parts: list[str] = []
    start = 0
    for point in points:
        parts += (text[start:point], mark)
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
        self._mark = new_mark(texts)
        self._is_used = False

    def text(self, text: str) -> str:
        """A text with marks at its weak points."""
        points = self._control.weak_points(text)
        self._is_used |= bool(points)
        return insert_marks(text, points, self._mark) if points else text

    def value(self, value: Any, words: Set[str] = frozenset()) -> Any:
        """A JSON value in which every key and string is escaped, except the given words."""
        if isinstance(value, str):
            return value if value in words else self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key, words): self.value(item, words) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, words) for item in value]
        return value

    def remove_marks(self, text: str) -> str:
        """A text of the prompt without the marks."""
        return text.replace(self._mark, "") if self._is_used else text
