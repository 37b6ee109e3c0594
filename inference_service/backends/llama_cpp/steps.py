"""What the engine reports about a request, merged into steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inference_service.backends.llama_cpp.chunks import Chunk, End, Likelihood, Piece, Progress
from inference_service.backends.llama_cpp.spelling import Speller
from inference_service.backends.types import EngineFinish, EngineStep, TokenLogprob

UNTOLD = math.nan
"""Stands in a step for a log probability that the engine did not tell."""


class StepBuffer:
    """Collects what the engine reports until somebody takes it, as one step.

    Args:
        speller: names the tokens that the engine does not.
        most_tokens: where the request ends, whether or not the engine does.
        alternatives: how many likeliest tokens go with each; None: no log probabilities are wanted.

    """

    def __init__(self, speller: Speller, most_tokens: int, alternatives: int | None = None) -> None:
        self._speller = speller
        self._most = most_tokens
        self._alternatives = alternatives
        self._decoded = 0
        """Tokens added so far, over all steps."""
        self._ended = False
        self._held: Piece | None = None
        self._cached: int | None = None
        self._cached_told = False
        self._clear()

    @property
    def is_ready(self) -> bool:
        """Whether there is a token or the end to take."""
        return self._count > 0 or self._finish is not None

    def add(self, chunk: Chunk) -> None:
        if isinstance(chunk, Progress):
            self._cached = chunk.cached
        elif isinstance(chunk, End):
            self._end(chunk)
        else:
            self._release_held()
            # An end-of-sequence token has no text and must leave with the finish, which is reported next.
            if chunk.text:
                self._append(chunk)
            else:
                self._held = chunk

    def take(self) -> EngineStep:
        """All that was added since the last call."""
        cached = None if self._cached_told else self._cached
        self._cached_told = self._cached_told or cached is not None
        text = "".join(self._texts)
        step = EngineStep(self._ids, self._count, text, self._finish, cached, self._logprobs)
        self._clear()
        return step

    def _clear(self) -> None:
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._texts: list[str] = []
        self._count = 0
        self._finish: EngineFinish | None = None

    def _release_held(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._append(held)

    def _append(self, piece: Piece) -> None:
        if self._ended:
            return
        count = piece.decoded - self._decoded
        self._decoded = piece.decoded
        data = piece.likelihood.data if piece.likelihood else None
        ids = self._speller.ids_of(piece.text, data, count, piece.token_id)
        beyond = max(0, piece.decoded - self._most)
        if beyond:
            self._add_beginning(ids, count, count - beyond)
        else:
            self._add(ids, count, piece.text, piece.likelihood)
        if self._alternatives is not None and piece.decoded >= self._most:
            self._ended = True
            self._finish = EngineFinish.MAX_TOKENS

    def _add(self, ids: Sequence[int], count: int, text: str, likelihood: Likelihood | None) -> None:
        self._ids.extend(ids)
        self._count += count
        self._texts.append(text)
        if likelihood is not None:
            top = likelihood.top[: self._alternatives]
            self._logprobs.extend(TokenLogprob(token_id, UNTOLD) for token_id in ids[:-1])
            self._logprobs.append(TokenLogprob(ids[-1], likelihood.logprob, top))

    def _add_beginning(self, ids: Sequence[int], count: int, kept: int) -> None:
        """The tokens of a character that the request ends within, and none of its text."""
        self._count += kept
        if len(ids) == count:
            self._ids.extend(ids[:kept])
            self._logprobs.extend(TokenLogprob(token_id, UNTOLD) for token_id in ids[:kept])

    def _end(self, end: End) -> None:
        if self._ended:
            return
        self._release_held()
        unreported = min(end.decoded, self._most) - self._decoded
        self._decoded += unreported
        self._count += unreported
        self._ended = True
        self._finish = end.finish if end.decoded <= self._most else EngineFinish.MAX_TOKENS
        if unreported and self._finish is EngineFinish.END_OF_SEQUENCE:
            # The end came inside a character and was not named; no other id may stand in its place.
            self._ids, self._logprobs = [], []
