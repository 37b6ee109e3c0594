"""How likely tokens were, as each kind of reply tells it."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence

from inference_client import TokenLogprob
from rest_bridge.answer import Json

LogprobsWriter = Callable[[Sequence[TokenLogprob]], Json]
"""Writes the next tokens of one choice."""

_LEAST = -9999.0
"""JSON has no minus infinity; this is what OpenAI's own API says in its place."""


def chat_logprobs() -> LogprobsWriter:
    """The writer for a choice of a conversation."""
    return lambda tokens: {"content": [_chat_token(token) for token in tokens], "refusal": None}


def _chat_token(token: TokenLogprob) -> Json:
    return {**_chat_entry(token), "top_logprobs": [_chat_entry(entry) for entry in token.top]}


def _chat_entry(token: TokenLogprob) -> Json:
    return {"token": token.token, "bytes": list(token.bytes) or None, "logprob": _finite(token.logprob)}


class CompletionLogprobs:
    """The writer for a choice of a completion. It counts characters, from one piece to the next."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def __call__(self, tokens: Sequence[TokenLogprob]) -> Json:
        """Write the next tokens."""
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [_by_name((*token.top, token)) for token in tokens],
            "text_offset": [self._pass(token) for token in tokens],
        }

    def _pass(self, token: TokenLogprob) -> int:
        """Where a token begins; one that goes on with a character begins where that does."""
        offset = self._offset
        self._offset += len(self._utf8.decode(token.bytes))
        return offset


def _by_name(tokens: Iterable[TokenLogprob]) -> dict[str, float]:
    """The likeliest one of each name."""
    found: dict[str, float] = {}
    for token in tokens:
        found.setdefault(_name(token), _finite(token.logprob))
    return found


def _name(token: TokenLogprob) -> str:
    """The text of a token; of part of a character, which many tokens would share, its bytes."""
    if "\ufffd" not in token.token:
        return token.token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
