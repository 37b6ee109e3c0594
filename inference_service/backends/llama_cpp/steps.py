"""What the engine reports about a request, merged into steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from inference_service.backends.types import EngineFinish, EngineStep

_FINISHES = {"eos": EngineFinish.END_OF_SEQUENCE, "limit": EngineFinish.MAX_TOKENS}
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextEncoder(Protocol):
    """What the backend needs of the model's tokenizer."""

    @property
    def vocabulary_size(self) -> int: ...

    def encode_text(self, text: str) -> list[int]: ...


class EngineFault(Exception):
    """Unexpected: the engine answered a request with an error. The message is the engine's own."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the prompt is in the KV cache."""

    total: int
    processed: int
    """Tokens, `cached` included."""
    cached: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that became whole characters, and the token that completed it."""

    text: str
    token_id: int
    decoded: int
    """Tokens decoded up to here, those without a piece of their own included."""


@dataclass(frozen=True, slots=True)
class End:
    """The engine is done with the request."""

    finish: EngineFinish
    decoded: int


def read_chunk(raw: bytes) -> Progress | Piece | End:
    """Parse what the engine's callback was given.

    Raises:
        EngineFault: it is an error.

    """
    chunk = orjson.loads(raw)
    if "error" in chunk:
        raise EngineFault(str(chunk["error"].get("message")))
    progress = chunk.get("prompt_progress")
    if progress is not None:
        return Progress(progress["total"], progress["processed"], progress["cache"])
    detail = chunk["__verbose"]
    decoded = detail["tokens_predicted"]
    if detail["stop"]:
        return End(_FINISHES[detail["stop_type"]], decoded)
    return Piece(detail["content"], detail["tokens"][0], decoded)


class StepBuffer:
    """Collects what the engine reports until somebody takes it, as one step."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._decoded = 0
        """Tokens added so far, over all steps."""
        self._held: Piece | None = None
        self._cached: int | None = None
        self._cached_told = False
        self._clear()

    @property
    def is_ready(self) -> bool:
        """Whether there is a token or the end to take."""
        return self._count > 0 or self._finish is not None

    def add(self, chunk: Progress | Piece | End) -> None:
        if isinstance(chunk, Progress):
            self._cached = chunk.cached
        elif isinstance(chunk, Piece):
            self._release_held()
            # An end-of-sequence token has no text and must leave with the finish, which is reported next.
            if chunk.text:
                self._append(chunk)
            else:
                self._held = chunk
        else:
            self._end(chunk)

    def take(self) -> EngineStep:
        """All that was added since the last call."""
        cached = None if self._cached_told else self._cached
        self._cached_told = self._cached_told or cached is not None
        step = EngineStep(self._ids, self._count, "".join(self._texts), self._finish, cached)
        self._clear()
        return step

    def _clear(self) -> None:
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._count = 0
        self._finish: EngineFinish | None = None

    def _release_held(self) -> None:
        if self._held is not None:
            self._append(self._held)
            self._held = None

    def _append(self, piece: Piece) -> None:
        count = piece.decoded - self._decoded
        self._decoded = piece.decoded
        self._count += count
        self._texts.append(piece.text)
        self._ids.extend(self._ids_of(piece, count))

    def _ids_of(self, piece: Piece, count: int) -> Sequence[int]:
        """All ids of a piece, or the one that the engine names.

        While a character is incomplete the engine drops ids. Its text encodes to the same ones if the
        number and the last one agree; bytes that were no UTF-8 cannot be known any more.
        """
        if count > 1 and _REPLACEMENT not in piece.text:
            ids = self._encoder.encode_text(piece.text)
            if len(ids) == count and ids[-1] == piece.token_id:
                return ids
        return [piece.token_id]

    def _end(self, end: End) -> None:
        self._release_held()
        unreported = end.decoded - self._decoded
        self._decoded = end.decoded
        self._count += unreported
        self._finish = end.finish
        if unreported and end.finish is EngineFinish.END_OF_SEQUENCE:
            # The end came inside a character and was not named; no other id may stand in its place.
            self._ids = []
