"""What the engine reports about a request, parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from inference_service.backends.types import EngineFinish

LOWEST = -9999.0
"""Stands for a probability too small for a 32-bit float, as in the public API."""

_FINISHES = {"eos": EngineFinish.END_OF_SEQUENCE, "limit": EngineFinish.MAX_TOKENS}


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
class Likelihood:
    """Log probabilities at the place of a piece's last token, under the model itself."""

    logprob: float
    top: Sequence[tuple[int, float]]
    """The likeliest ids, likeliest first; always at least one."""
    data: bytes
    """The bytes of the whole piece, also where they are no UTF-8."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that became whole characters, and the token that completed it."""

    text: str
    token_id: int
    decoded: int
    """Tokens decoded up to here, those without a piece of their own included."""
    likelihood: Likelihood | None = None
    """Where asked for."""


@dataclass(frozen=True, slots=True)
class End:
    """The engine is done with the request."""

    finish: EngineFinish
    decoded: int


Chunk = Progress | Piece | End


def read_chunk(raw: bytes) -> Chunk:
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
    found = detail.get("completion_probabilities")
    likelihood = _likelihood(found[0]) if found else None
    return Piece(detail["content"], detail["tokens"][0], decoded, likelihood)


def _likelihood(found: Mapping[str, Any]) -> Likelihood:
    top = [(other["id"], _floored(other["logprob"])) for other in found["top_logprobs"]]
    return Likelihood(_floored(found["logprob"]), top, bytes(found["bytes"]))


def _floored(logprob: float) -> float:
    return max(LOWEST, min(0.0, logprob))
