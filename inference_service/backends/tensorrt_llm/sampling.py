"""Converts a request to TensorRT-LLM's parameters: sampling, logit bias and guided decoding.

Every field that decides a token is set, because the library's own defaults are others: greedy, seed 0
for every request, 32 tokens. What differs from the contract's words:

- The repetition penalty counts the prompt's tokens too. Presence and frequency penalties count only
  generated ones: the whole prompt is ignored by `prompt_ignore_length`.
- `top_p` of 0 is greedy here. The engine reads it as "off" when `top_k` is set; a nucleus of no mass
  holds the likeliest token alone.
- The engine keeps at most 1024 tokens by `top_k`.
- Log probabilities are those of the distribution that the token was drawn from: bias, penalties,
  temperature and a grammar have shaped it, top_k, top_p and min_p have not. Without those they are the
  model's own.
- Stop sequences are not sent; they are matched in the service.

The engine adds the logit bias before temperature, and after a grammar has ruled tokens out. By the contract
-100 forbids a token, whatever its logit is. Any other number is added as it is.

An error inside an engine step fails every request of its batch, and reading a grammar is part of a step.
So this module first parses each grammar with the same library: a grammar that cannot be parsed fails only
its own request. Where this check is not possible, grammars are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from inference_service.backends.types import EngineRequest, Sampling
from inference_service.constraints.grammar import Grammar

MAX_TOP_K = 1024


def sampling_fields(request: EngineRequest, end_ids: frozenset[int], known: frozenset[str]) -> dict[str, Any]:
    """The keywords of `SamplingParams`.

    Args:
        request: a parameter in it that the library cannot honour is off.
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


FORBIDDEN = -30_000.0
"""The value for a bias of -100. No logit outweighs it. Unlike infinity, it still permits a choice where a
grammar demands a forbidden token. Half precision, which some engines' logits have, can hold it."""
KEPT_TENSORS = 16

_FORBIDS = -100.0


class BiasTensors:
    """Makes tensors, and keeps the last `KEPT`: the choices of a request share theirs.

    One takes 4 bytes a token, 513 kB for Llama 3.1, for as long as its request runs, and crosses with it
    to the worker process.

    Args:
        torch: PyTorch.
        vocabulary_size: the engine's own, which may be larger than the tokenizer's.

    """

    def __init__(self, torch: Any, vocabulary_size: int) -> None:
        self._torch = torch
        self._vocabulary_size = vocabulary_size
        self._kept = lru_cache(maxsize=KEPT_TENSORS)(self._make)

    def tensor(self, bias: Mapping[int, float]) -> Any:
        """FP32, one dimension of `vocabulary_size`; not to be changed.

        Args:
            bias: token id, within the vocabulary, → range [-100, 100]; at least one.

        """
        return self._kept(tuple(sorted(bias.items())))

    def _make(self, entries: tuple[tuple[int, float], ...]) -> Any:
        single = self._torch.float32
        tensor = self._torch.zeros(self._vocabulary_size, dtype=single)
        values = [FORBIDDEN if value <= _FORBIDS else float(value) for _, value in entries]
        tensor[[token_id for token_id, _ in entries]] = self._torch.tensor(values, dtype=single)
        return tensor


KEPT_GRAMMARS = 64
"""Grammars that are known to be readable."""
MAX_TEXT = 2_000_000
"""Characters of a grammar's text."""


class GuidedDecoding:
    """Makes the parameters of guided decoding.

    Args:
        params: the library's class of them.
        read: xgrammar's reader of grammars, which raises what it cannot read.

    """

    def __init__(self, params: Callable[..., Any], read: Callable[[str], object]) -> None:
        self._params = params
        self._read = read
        self._try = lru_cache(maxsize=KEPT_GRAMMARS)(self._read_once)

    def check(self, grammar: Grammar) -> None:
        """Print and read a grammar. Blocks, for long if it is large.

        Raises:
            Exception: it cannot be printed or read.

        """
        self._try(grammar)

    def params(self, grammar: Grammar) -> Any:
        """The arguments of a request; `grammar` has passed the check."""
        return self._params(grammar=self._try(grammar))

    def _read_once(self, grammar: Grammar) -> str:
        # Imported late: a service without grammars need not wait for it.
        from inference_service.constraints.notations.ebnf import to_ebnf

        text = to_ebnf(grammar)
        if len(text) > MAX_TEXT:
            raise ValueError("the grammar is too large")
        self._read(text)
        return text
