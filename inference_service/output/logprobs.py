"""Log probabilities as callers receive them: tokens with their text and bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from inference_service.backends.types import TokenLogprob


class TokenNames(Protocol):
    """What naming a token takes."""

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of a token; none for a control token."""
        ...

    def token_text(self, token_id: int) -> str:
        """A token as it may be shown; control tokens by their own names."""
        ...


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token and the natural logarithm of its probability."""

    token_id: int
    text: str
    """U+FFFD stands for bytes that are part of a character."""
    raw: bytes
    """Empty for a control token."""
    logprob: float
    top: Sequence[ScoredToken] = ()
    """The likeliest tokens at this place, likeliest first."""


def scored(names: TokenNames, logprobs: Iterable[TokenLogprob]) -> list[ScoredToken]:
    """Name the tokens of an engine's log probabilities."""
    return [
        _scored(names, entry.token_id, entry.logprob, [_scored(names, *pair) for pair in entry.top])
        for entry in logprobs
    ]


def _scored(names: TokenNames, token_id: int, logprob: float, top: Sequence[ScoredToken] = ()) -> ScoredToken:
    return ScoredToken(token_id, names.token_text(token_id), names.token_bytes(token_id), logprob, top)
