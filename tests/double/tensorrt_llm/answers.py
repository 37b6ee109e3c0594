"""The answers of the double, which depend on the request alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import chain, cycle
from typing import TYPE_CHECKING

from .sampling_params import SamplingParams
from .script import Script
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .executor.sequence import Request

_SCRIPT = re.compile(r"@say<<(.*?)>>", re.DOTALL)
_LIKELIEST = 10.0
"""The logit of the next token of an unbiased answer; all other tokens have 0."""


def answer(request: Request, script: Script, tokenizer: Tokenizer) -> Iterator[int]:
    """The tokens of an answer, without end.

    It is what the prompt's last `@say<<...>>` holds. Without one it is `[digest] ` and the prompt's own text,
    so that every answer proves its prompt; the digest hangs on the prompt and, unless the likeliest token is
    taken, on seed, temperature and top_p. A bias makes the likeliest token another one at each place.

    Under a grammar it is the scripted text if that is a sentence of it, else the shortest sentence.

    Raises:
        ValueError: the engine cannot read the grammar, or the bias is not one.

    """
    bias = read_bias(request.params.embedding_bias, request.vocabulary_size)
    end = tokenizer.eos_id if script.end_id is None else script.end_id
    guide = request.params.guided_decoding
    scripted_text = next(reversed(_SCRIPT.findall(tokenizer.decode(request.prompt_ids))), None)
    if guide is not None:
        return chain(tokenizer.encode(_sentence(str(guide.grammar), scripted_text)), cycle([end]))
    head, body = _text(request, tokenizer) if scripted_text is None else ([], tokenizer.encode(scripted_text))
    head, body, ends = (_biased(ids, bias) for ids in (head, body, [end]))
    if request.params.ignore_eos or not ends:
        return chain(head, cycle(body or _spare(bias)))
    return chain(head, body, cycle(ends))


def log_probability(token_id: int, params: SamplingParams) -> float:
    """The log probability of a token. It differs between tokens and depends on the temperature."""
    return -(1 + token_id % 97) / 64 / (params.temperature or 1.0)


def read_bias(tensor: object, vocabulary_size: int) -> Mapping[int, float]:
    """Token id → its bias, where it is not 0.

    Raises:
        ValueError: the tensor is of another kind or size.

    """
    if tensor is None:
        return {}
    torch = import_module("torch")
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"embedding_bias must be a tensor, not {type(tensor)}")
    if tensor.dtype is not torch.float32:
        raise ValueError("Embedding bias data type must be same as model logits type.")
    if tuple(tensor.shape) != (vocabulary_size,):
        raise ValueError(f"embedding bias has the shape {tensor.shape}, the vocabulary {vocabulary_size}")
    return {token_id: value for token_id, value in enumerate(tensor.tolist()) if value}


def _sentence(grammar: str, scripted_text: str | None) -> str:
    from inference_service.backends.simulated.answer import constrained
    from inference_service.constraints.compiling import ConstraintKind, compile_constraint

    return constrained(compile_constraint(ConstraintKind.GRAMMAR, grammar), scripted_text)


def _text(request: Request, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    params = request.params
    seed = "" if params.is_greedy else f"{params.engine_seed} {params.temperature} {params.top_p}"
    digest = hashlib.sha256(f"{request.prompt_ids}{seed}".encode()).hexdigest()[:8]
    head = tokenizer.encode(f"[{digest}] ")
    return head, [index for index in request.prompt_ids if index not in tokenizer.special_ids] or head


def _biased(ids: Sequence[int], bias: Mapping[int, float]) -> list[int]:
    """The likeliest tokens in place of `ids` under a bias; tokens that became unlikely are left out."""
    top = min(bias, key=lambda token_id: (-bias[token_id], token_id), default=None)
    chosen = []
    for token_id in ids:
        own = _LIKELIEST + bias.get(token_id, 0.0)
        if top is not None and bias[top] > max(own, 0.0):
            chosen.append(top)
        elif own > 0.0:
            chosen.append(token_id)
    return chosen


def _spare(bias: Mapping[int, float]) -> list[int]:
    """The token for answers of which every token became unlikely."""
    return [next(token_id for token_id in range(len(bias) + 1) if bias.get(token_id, 0.0) >= 0.0)]
