"""How likely tokens were."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was by the model itself: before bias, penalties, temperature and constraint."""

    token_id: int
    """The token."""
    token: str
    """Its text; U+FFFD stands for bytes that are part of a character."""
    bytes: bytes
    """Its exact bytes; empty for control tokens."""
    logprob: float
    """Natural logarithm of its probability, 0 or less."""
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens at this place, likeliest first, as many as were asked for; theirs is empty."""
