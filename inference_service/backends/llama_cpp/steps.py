"""Merges what the engine reports about a request into steps, and finds what it does not report.

While a character is incomplete, the engine holds its text back. It reports only the token that completes it,
and the log probability of this token alone. `TokenIdFinder` finds the ids of the tokens before it.
`LogprobLookup` finds their log probabilities: a request of one token computes each of them again, with the
shared beginning from the KV cache.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson

from inference_service.backends.base import Steps
from inference_service.backends.types import EngineFinish, EngineRequest, EngineStep, Sampling, TokenLogprob

LOWEST = -9999.0
"""Stands for a probability too small for a 32-bit float, as in the public API."""

_FINISHES = {"eos": EngineFinish.END_OF_SEQUENCE, "limit": EngineFinish.MAX_TOKENS}


class EngineFault(Exception):
    """Unexpected: the engine answered a request with an error. The message is the engine's own."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The part of the prompt that is in the KV cache."""

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
class TokenChunk:
    """Text that became whole characters, and the token that completed it."""

    text: str
    token_id: int
    decoded: int
    """Tokens decoded up to here, those without a piece of their own included."""
    likelihood: Likelihood | None = None
    """Set if log probabilities are requested."""


@dataclass(frozen=True, slots=True)
class End:
    """The engine is done with the request."""

    finish: EngineFinish
    decoded: int


Chunk = Progress | TokenChunk | End


def read_chunk(raw: bytes) -> Chunk:
    """Parse one chunk of the engine's callback.

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
    return TokenChunk(detail["content"], detail["tokens"][0], decoded, likelihood)


def _likelihood(found: Mapping[str, Any]) -> Likelihood:
    top = [(other["id"], _floored(other["logprob"])) for other in found["top_logprobs"]]
    return Likelihood(_floored(found["logprob"]), top, bytes(found["bytes"]))


def _floored(logprob: float) -> float:
    return max(LOWEST, min(0.0, logprob))


UNREPORTED = math.nan
"""Stands in a step for a log probability that the engine did not report."""


class StepBuffer:
    """Collects what the engine reports until it is taken, as one step.

    Args:
        id_finder: finds the ids of tokens that the engine does not report.
        most_tokens: the request ends there, also where the engine continues.
        alternatives: how many likeliest tokens go with each; None: no log probabilities are requested.

    """

    def __init__(self, id_finder: TokenIdFinder, most_tokens: int, alternatives: int | None = None) -> None:
        self._id_finder = id_finder
        self._max_tokens = most_tokens
        self._alternatives = alternatives
        self._decoded = 0
        """Tokens added so far, over all steps."""
        self._ended = False
        self._held: TokenChunk | None = None
        self._cached: int | None = None
        self._is_cached_reported = False
        self._clear()

    @property
    def is_ready(self) -> bool:
        """Whether there is a token or the end to take."""
        return self._count > 0 or self._finish is not None

    @property
    def has_ended(self) -> bool:
        """Whether nothing will be added any more."""
        return self._ended

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
        cached = None if self._is_cached_reported else self._cached
        self._is_cached_reported = self._is_cached_reported or cached is not None
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

    def _append(self, piece: TokenChunk) -> None:
        if self._ended:
            return
        count = piece.decoded - self._decoded
        self._decoded = piece.decoded
        data = piece.likelihood.data if piece.likelihood else None
        ids = self._id_finder.ids_of(piece.text, data, count, piece.token_id)
        beyond = max(0, piece.decoded - self._max_tokens)
        if beyond:
            self._add_beginning(ids, count, count - beyond)
        else:
            self._add(ids, count, piece.text, piece.likelihood)
        if self._alternatives is not None and piece.decoded >= self._max_tokens:
            self._ended = True
            self._finish = EngineFinish.MAX_TOKENS

    def _add(self, ids: Sequence[int], count: int, text: str, likelihood: Likelihood | None) -> None:
        self._ids.extend(ids)
        self._count += count
        self._texts.append(text)
        if likelihood is not None:
            top = likelihood.top[: self._alternatives]
            self._logprobs.extend(TokenLogprob(token_id, UNREPORTED) for token_id in ids[:-1])
            self._logprobs.append(TokenLogprob(ids[-1], likelihood.logprob, top))

    def _add_beginning(self, ids: Sequence[int], count: int, kept: int) -> None:
        """The tokens of a character that the request ends within, and none of its text."""
        self._count += kept
        if len(ids) == count:
            self._ids.extend(ids[:kept])
            self._logprobs.extend(TokenLogprob(token_id, UNREPORTED) for token_id in ids[:kept])

    def _end(self, end: End) -> None:
        if self._ended:
            return
        self._release_held()
        unreported = min(end.decoded, self._max_tokens) - self._decoded
        self._decoded += unreported
        self._count += unreported
        self._ended = True
        self._finish = end.finish if end.decoded <= self._max_tokens else EngineFinish.MAX_TOKENS
        if unreported and self._finish is EngineFinish.END_OF_SEQUENCE:
            # The end came inside a character and was not named; no other id may stand in its place.
            self._ids, self._logprobs = [], []


_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextEncoder(Protocol):
    """The part of the tokenizer that the backend needs."""

    @property
    def vocabulary_size(self) -> int: ...

    def encode_text(self, text: str) -> list[int]: ...

    def token_bytes(self, token_id: int) -> bytes: ...


class ModelTokenizer(TextEncoder, Protocol):
    """A tokenizer that knows how its model ends."""

    @property
    def eos_ids(self) -> frozenset[int]: ...


class TokenIdFinder:
    """Finds the ids of a text whose last id and number of ids are known."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._by_bytes: dict[bytes, int] = {}

    def ids_of(self, text: str, data: bytes | None, count: int, last_id: int) -> Sequence[int]:
        """All ids, or the last alone where the others cannot be known.

        Args:
            text: what was decoded; bytes that were no UTF-8 are U+FFFD.
            data: its bytes, if the engine reported them.
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
        return self._find_by_bytes(data, count, last_id) or [last_id]

    def _find_by_bytes(self, data: bytes | None, count: int, last_id: int) -> list[int] | None:
        """Find other tokens with the same bytes than those of the encoded text; the longest first."""
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
    """Whether the engine holds this text back: it sends whole characters at once."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return decoder.getstate()[0] != b""


FIRST_TOP_COUNT = 64
"""The number of likeliest tokens that are requested first: a sampled token is nearly always among them."""

_EXCLUSIVELY = 10_000.0
_GREEDY = Sampling(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    repetition_penalty=1.0,
    seed=0,
    reproducible=False,
)

Generate = Callable[[EngineRequest], Steps]


class LogprobLookup:
    """Fills in the log probabilities that the steps of one request lack.

    Args:
        generate: runs the extra requests; they wait for a free slot like any other.
        alternatives: how many likeliest tokens go with each.

    """

    def __init__(
        self, generate: Generate, encoder: TextEncoder, request: EngineRequest, alternatives: int
    ) -> None:
        self._generate = generate
        self._request_id = request.request_id
        self._before = list(request.prompt_ids)
        """All tokens before the current one."""
        self._alternatives = alternatives
        # A token that is whole text: the engine holds back any other token, with its log probabilities.
        self._shown_id = encoder.encode_text("a")[-1]
        self._vocabulary_size = encoder.vocabulary_size

    async def complete(self, step: EngineStep) -> EngineStep:
        """The step with every log probability.

        Raises:
            BackendError: the engine failed.

        """
        logprobs = list(step.logprobs)
        for index, reported in enumerate(logprobs):
            if math.isnan(reported.logprob):
                logprobs[index] = await self._find_logprob(reported.token_id)
            self._before.append(reported.token_id)
        return replace(step, logprobs=logprobs)

    async def _find_logprob(self, token_id: int) -> TokenLogprob:
        top = await self._likeliest(max(FIRST_TOP_COUNT, self._alternatives))
        found = dict(top).get(token_id)
        if found is None:
            found = dict(await self._likeliest(self._vocabulary_size))[token_id]
        return TokenLogprob(token_id, found, top[: self._alternatives])

    async def _likeliest(self, count: int) -> Sequence[tuple[int, float]]:
        probe = EngineRequest(
            self._request_id,
            tuple(self._before),
            _GREEDY,
            max_tokens=1,
            ignore_eos=True,
            logit_bias={self._shown_id: _EXCLUSIVELY},
            logprobs=count,
        )
        async with aclosing(self._generate(probe)) as steps:
            reported = [found async for step in steps for found in step.logprobs]
        return reported[0].top
