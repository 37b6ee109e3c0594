"""Converts a request to the parameters of llama.cpp's completion endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import orjson

from inference_service.backends.types import EngineRequest, Sampling
from inference_service.constraints.notations.lark import to_lark

FORBIDDEN = -10_000.0
"""The value for a bias of -100. No logit comes near it, but it is finite: where a grammar permits only
forbidden tokens, the likeliest token still fits the grammar."""

MAX_HELD = 3
"""Tokens that can pass without a whole character, each of at least a byte."""

_RANDOM_SEED = 0xFFFFFFFF
"""The seed that makes llama.cpp draw one itself."""

# Stated although most are the engine's defaults: a model file may bring its own.
_OFF = {
    "adaptive_target": -1.0,
    "backend_sampling": False,
    "dry_multiplier": 0.0,
    "dynatemp_range": 0.0,
    "mirostat": 0,
    "n_probs": 0,
    "top_n_sigma": -1.0,
    "typical_p": 1.0,
    "xtc_probability": 0.0,
}


def completion_body(
    request: EngineRequest, context_length: int, *, end_ids: frozenset[int] = frozenset()
) -> bytes:
    """The JSON body that runs this request.

    Every sampling parameter is stated. Tokens are filtered before the temperature applies (penalties,
    top_k, top_p, min_p, temperature), so what may be drawn does not depend on the temperature.
    `ignore_eos` forbids every end-of-generation token the model has.

    Args:
        request: what to run.
        context_length: of a slot, in tokens.
        end_ids: the model's end-of-generation tokens, which may end a text of a grammar.

    """
    return orjson.dumps(
        {
            "prompt": list(request.prompt_ids),
            "n_predict": _most_tokens(request),
            "ignore_eos": request.ignore_eos,
            "stream": True,
            "return_progress": True,
            # Brings each token's id and the exact count, at less cost than asking for probabilities.
            "verbose": True,
            # A prefix out of the cache changes the shape of the batches, and by that the last bits of
            # the logits: the same request may then answer differently.
            "cache_prompt": not request.sampling.reproducible,
            **_OFF,
            **_choice(request.sampling),
            **_penalties(request.sampling, context_length),
            **_bias(request),
            **_extras(request, end_ids),
        }
    )


def engine_seed(seed: int) -> int:
    """Fold an unsigned 64-bit seed into the engine's 32 bits; the smaller ones stay what they are."""
    folded = (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return folded if folded != _RANDOM_SEED else _RANDOM_SEED - 1


def _choice(sampling: Sampling) -> dict[str, object]:
    if sampling.is_greedy:
        return {"samplers": ["penalties", "top_k"], "top_k": 1, "temperature": 0.0, "seed": 0}
    return {
        "samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"],
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        # With a mass of 0 the likeliest token is still there.
        "min_keep": 1,
        "seed": engine_seed(sampling.seed),
    }


def _most_tokens(request: EngineRequest) -> int:
    # Tokens of a character are named with the one that completes it, which may come after the last.
    return request.max_tokens if request.logprobs is None else request.max_tokens + MAX_HELD


def _extras(request: EngineRequest, end_ids: frozenset[int]) -> dict[str, object]:
    extras: dict[str, object] = {}
    if request.logprobs is not None:
        # Zero would turn them off.
        extras["n_probs"] = max(1, request.logprobs)
        extras["post_sampling_probs"] = False
    if request.grammar is not None:
        extras["grammar"] = to_lark(request.grammar, () if request.ignore_eos else end_ids)
        extras["grammar_lazy"] = False
    return extras


def _penalties(sampling: Sampling, context_length: int) -> dict[str, object]:
    """Penalties that count the generated tokens only, as far as the engine can.

    llama.cpp counts the prompt too. With a window over the whole context the prompt's share is a
    constant for each token, which a bias takes back: exactly for the frequency penalty. For the
    presence penalty, tokens that occur in the prompt are never penalised, not even once generated.
    The repetition penalty is meant to cover prompt and output, and is exact; together with the other
    two, their bias is exact for tokens with a positive logit.
    """
    frequency, presence = sampling.frequency_penalty, sampling.presence_penalty
    repetition = sampling.repetition_penalty
    in_use = bool(frequency or presence or repetition != 1.0)
    return {
        "repeat_last_n": context_length if in_use else 0,
        "repeat_penalty": repetition,
        "frequency_penalty": frequency,
        "presence_penalty": presence,
    }


def _bias(request: EngineRequest) -> dict[str, object]:
    """The values that are added to logits: the caller's bias, and those that undo penalties of the prompt."""
    bias = _prompt_bias(request.sampling, request.prompt_ids)
    for token_id, value in request.logit_bias.items():
        bias[token_id] = bias.get(token_id, 0.0) + (value if value > -100.0 else FORBIDDEN)
    return {"logit_bias": list(bias.items())} if bias else {}


def _prompt_bias(sampling: Sampling, prompt_ids: Sequence[int]) -> dict[int, float]:
    frequency, presence = sampling.frequency_penalty, sampling.presence_penalty
    if not (frequency or presence):
        return {}
    factor = sampling.repetition_penalty
    return {i: (n * frequency + presence) * factor for i, n in Counter(prompt_ids).items()}
