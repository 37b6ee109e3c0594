"""Buffers the tokens of one choice, turns ids into text, and releases text with its complete tokens.

Everything that examines the text only reports offsets: stop sequences how much is safe, the content filter
how much is safe and what is replaced, the parser of tool calls what is content. Text passes two borders:

    released | settled | held back
             ^         ^ no stop sequence and no rule can change the text before this offset
             ^ the text before this offset is sent

Offsets of held-back text count the text as the model wrote it. Offsets of settled text count the text after
redactions. A token is released once its last character is settled.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from inference_service.output.events import Delta, ScoredToken, TokenNames


class Detokenizer:
    """Decodes the tokens of one choice as they arrive.

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


class _Tokens(NamedTuple):
    """One token, or the tokens of a step whose text cannot be divided among them."""

    start: int
    """Offset of the first character that it contributes to."""
    end: int
    """Offset behind the last one."""
    token_ids: Sequence[int]
    token_count: int
    logprobs: Sequence[ScoredToken]


class _Redaction(NamedTuple):
    start: int
    end: int
    replacement: str


class TokenBuffer:
    """Text and tokens of one choice that are not released yet.

    Args:
        index: of the choice.

    """

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self.total = 0
        """Length of all text that was added, in characters."""
        self._held = ""
        self._held_from = 0
        self._tokens: deque[_Tokens] = deque()
        self._unfinished: list[_Tokens] = []
        """Tokens that end within a character; their end is not known yet."""
        self._redactions: deque[_Redaction] = deque()
        """Those that a held-back token or character may lie in, by their start."""
        self._hidden_to = -1
        """The end of the text that redactions hide; -1 before there is one."""
        self._settled = ""
        self._settled_from = 0
        self._reset_tokens()

    def add(
        self,
        text: str,
        token_ids: Sequence[int] = (),
        token_count: int = 0,
        logprobs: Sequence[ScoredToken] = (),
        *,
        ends_within_character: bool = False,
    ) -> None:
        """Append text, and the tokens that it came with.

        A token that ends within a character belongs to the text that completes this character.
        """
        start = self.total
        self._held += text
        self.total = end = start + len(text)
        tokens = _Tokens(start, end, token_ids, token_count, logprobs)
        if ends_within_character:
            self._unfinished.append(tokens)
            return
        if self._unfinished:
            self.finish_tokens()
        if token_count:
            self._tokens.append(tokens)

    def finish_tokens(self) -> None:
        """End the tokens of an unfinished character here: there is no more text for them."""
        self._tokens += [tokens._replace(end=self.total) for tokens in self._unfinished]
        self._unfinished.clear()

    def is_within_token(self, offset: int) -> bool:
        """Whether an offset of held-back text lies within a token, not between two."""
        return any(tokens.start < offset < tokens.end for tokens in (*self._tokens, *self._unfinished))

    def held_text(self, start: int, end: int) -> str:
        """Return held-back text between two offsets."""
        return self._held[start - self._held_from : end - self._held_from]

    def redact(self, start: int, end: int, replacement: str) -> None:
        """Replace held-back text. The calls come in the order of `start`.

        Redactions that overlap or touch share the replacement of the first. Their tokens are counted and
        not named.
        """
        shown = replacement if start > self._hidden_to else ""
        self._redactions.append(_Redaction(start, end, shown))
        self._hidden_to = max(self._hidden_to, end)

    def settle(self, upto: int) -> str:
        """Settle the held-back text before offset `upto`, and its tokens; return it with its redactions."""
        count = upto - self._held_from
        text = self._redacted(upto) if self._redactions else self._held[:count]
        while self._tokens and self._tokens[0].end <= upto:
            self._settle_tokens(self._tokens.popleft())
        if self._redactions:
            self._drop_redactions(upto)
        self._held = self._held[count:]
        self._held_from = upto
        self._settled += text
        return text

    def settled_text(self, start: int, end: int) -> str:
        """Return settled text between two offsets."""
        return self._settled[start - self._settled_from : end - self._settled_from]

    def release(self, upto: int | None = None) -> Delta:
        """Release the settled text before offset `upto`, and all settled tokens; None: all settled text."""
        count = len(self._settled) if upto is None else upto - self._settled_from
        delta = Delta(self._index, self._settled[:count], self._ids, self._count, self._logprobs or ())
        self._settled = self._settled[count:]
        self._settled_from += count
        self._reset_tokens()
        return delta

    def _reset_tokens(self) -> None:
        self._ids: list[int] = []
        self._count = 0
        self._logprobs: list[ScoredToken] = []

    def _settle_tokens(self, tokens: _Tokens) -> None:
        self._count += tokens.token_count
        if not (self._redactions and self._is_hidden(tokens)):
            self._ids += tokens.token_ids
            self._logprobs += tokens.logprobs

    def _is_hidden(self, tokens: _Tokens) -> bool:
        return any(r.start < tokens.end and tokens.start < r.end for r in self._redactions)

    def _redacted(self, upto: int) -> str:
        parts: list[str] = []
        position = self._held_from
        for redaction in self._redactions:
            if redaction.start >= self._held_from:
                parts += (self.held_text(position, redaction.start), redaction.replacement)
            position = max(position, redaction.end)
        parts.append(self.held_text(position, upto))
        return "".join(parts)

    def _drop_redactions(self, upto: int) -> None:
        """Forget the redactions that end before all text and all tokens that are still held back."""
        waiting = self._tokens or self._unfinished
        first = min(upto, waiting[0].start) if waiting else upto
        while self._redactions and self._redactions[0].end <= first:
            self._redactions.popleft()
