"""Makes the simulated engine's answers, also under a grammar, and their made-up log probabilities."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle
from typing import Protocol

from inference_service.backends.base import EngineGrammarError
from inference_service.backends.types import EngineRequest, Sampling, TokenLogprob
from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.grammar import Grammar

_SCRIPT = re.compile(r"@say<<(.*?)>>", re.DOTALL)


class TextCodec(Protocol):
    """The part of a tokenizer that answering takes."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def eos_ids(self) -> frozenset[int]: ...

    def encode_text(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


def answer(codec: TextCodec, request: EngineRequest) -> Iterator[int]:
    """The ids of the answer: up to an end-of-sequence token, or without end.

    Raises:
        EngineRequestError: the grammar cannot be followed.

    """
    prompt = codec.decode(request.prompt_ids)
    if request.grammar is not None:
        return _to_end(codec.encode_text(constrained(request.grammar, _script(prompt))), codec.eos_ids)
    chosen = [i for i, bias in sorted(request.logit_bias.items()) if bias >= 100.0]
    if chosen:
        return _chosen(chosen, frozenset() if request.ignore_eos else codec.eos_ids)
    forbidden = {i for i, bias in request.logit_bias.items() if bias <= -100.0}
    once, repeated = _texts(request, prompt)
    head = _encode(codec, once, forbidden)
    ends = codec.eos_ids - forbidden
    if ends and not request.ignore_eos:
        return _to_end([*head, *_encode(codec, repeated or once, forbidden)], ends)
    return _without_end(
        head, lambda: _encode(codec, repeated or once, forbidden) or [_any_but(forbidden | codec.eos_ids)]
    )


def digest(prompt_ids: Sequence[int], sampling: Sampling) -> str:
    """Eight hexadecimal digits that name a prompt and, unless decoding is greedy, the seed."""
    seed = "" if sampling.is_greedy else str(sampling.seed)
    return hashlib.sha256(f"{list(prompt_ids)}{seed}".encode()).hexdigest()[:8]


def _script(prompt: str) -> str | None:
    scripts = _SCRIPT.findall(prompt)
    return scripts[-1] if scripts else None


def _texts(request: EngineRequest, prompt: str) -> tuple[str, str]:
    """The text that comes once, and the text after it, which may be repeated."""
    script = _script(prompt)
    if script is not None:
        return "", script
    return f"[{digest(request.prompt_ids, request.sampling)}] ", prompt


def _encode(codec: TextCodec, text: str, forbidden: set[int]) -> list[int]:
    ids = codec.encode_text(text)
    return [i for i in ids if i not in forbidden] if forbidden else ids


def _without_end(head: Sequence[int], make_body: Callable[[], Sequence[int]]) -> Iterator[int]:
    """The body, which is made when it is reached, for ever after the head."""
    yield from head
    yield from cycle(make_body())


def _to_end(ids: Sequence[int], ends: frozenset[int]) -> Iterator[int]:
    return iter([*ids, min(ends)])


def _chosen(ids: Sequence[int], ends: frozenset[int]) -> Iterator[int]:
    """These in turn, for ever or up to an end among them."""
    until_end = next((ids[: place + 1] for place, token_id in enumerate(ids) if token_id in ends), None)
    return cycle(ids) if until_end is None else iter(until_end)


def _any_but(ids: set[int] | frozenset[int]) -> int:
    return next(token_id for token_id in count() if token_id not in ids)


_HALVED = math.log(0.5)


def made_up_logprobs(ids: Sequence[int], alternatives: int, vocabulary_size: int) -> list[TokenLogprob]:
    """For each token: itself with probability 1/2, then the ids that follow it with 1/4, 1/8, ..."""
    return [
        TokenLogprob(
            token_id,
            _HALVED,
            [((token_id + rank) % vocabulary_size, _HALVED * (rank + 1)) for rank in range(alternatives)],
        )
        for token_id in ids
    ]


def constrained(grammar: Grammar, requested: str | None) -> str:
    """The requested text if the grammar describes it, else a shortest text that it describes.

    Raises:
        EngineGrammarError: the grammar is too ambiguous to check the requested text.

    """
    try:
        fits = requested is not None and grammar.matches(requested)
    except ConstraintError as error:
        raise EngineGrammarError(f"the simulated engine cannot follow this grammar: {error}") from None
    return requested if requested is not None and fits else grammar.shortest_text()
