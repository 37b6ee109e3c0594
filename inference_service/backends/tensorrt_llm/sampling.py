"""A request in the words of TensorRT-LLM.

Every field that decides a token is set, because the library's own defaults are others: greedy, seed 0
for every request, 32 tokens. What differs from the contract's words:

- The repetition penalty counts the prompt's tokens too. Presence and frequency penalties count only
  generated ones: the whole prompt is ignored by `prompt_ignore_length`.
- `top_p` of 0 is greedy here. The engine takes it for "off" when `top_k` is set, and the likeliest
  token is what a nucleus of no mass holds.
- The engine keeps at most 1024 tokens by `top_k`.
- Log probabilities are those of the distribution that the token was drawn from: bias, penalties,
  temperature and a grammar have shaped it, top_k, top_p and min_p have not. Without those they are the
  model's own.
- Stop sequences are not sent; they are matched in the service.
"""

from __future__ import annotations

from typing import Any

from inference_service.backends.types import EngineRequest, Sampling

MAX_TOP_K = 1024


def sampling_fields(request: EngineRequest, end_ids: frozenset[int], known: frozenset[str]) -> dict[str, Any]:
    """The keywords of `SamplingParams`.

    Args:
        request: what is asked for; a parameter that the library cannot honour is off.
        end_ids: tokens that end a generation, at least one.
        known: the fields that exist in the installed library.

    """
    fields: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        **_ending(request, end_ids),
        **_choice(request.sampling),
        **_penalties(request),
        **_output(),
    }
    return {name: value for name, value in fields.items() if name in known}


def first_end_id(end_ids: frozenset[int]) -> int:
    """The one of the end ids that goes by that name; the others are sent as stop words."""
    return min(end_ids)


def _ending(request: EngineRequest, end_ids: frozenset[int]) -> dict[str, Any]:
    end_id = first_end_id(end_ids)
    return {
        "end_id": end_id,
        "pad_id": end_id,
        "ignore_eos": request.ignore_eos,
        "stop_token_ids": None if request.ignore_eos else sorted(end_ids),
        "include_stop_str_in_output": False,
    }


def _choice(sampling: Sampling) -> dict[str, Any]:
    if sampling.is_greedy or sampling.top_p == 0:
        # A temperature of 0 is rewritten inside the engine; this is what it becomes.
        return {"temperature": 1.0, "top_k": 1, "top_p": None, "min_p": 0.0, "seed": sampling.seed}
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
    }


def _penalties(request: EngineRequest) -> dict[str, Any]:
    return {
        "repetition_penalty": request.sampling.repetition_penalty,
        "presence_penalty": request.sampling.presence_penalty,
        "frequency_penalty": request.sampling.frequency_penalty,
        "prompt_ignore_length": len(request.prompt_ids),
    }


def _output() -> dict[str, Any]:
    return {
        "n": 1,
        "use_beam_search": False,
        "detokenize": False,
        "add_special_tokens": False,
        "exclude_input_from_output": True,
    }
