"""The sampling parameters of a request: exactly the documented fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True, kw_only=True)
class GuidedDecodingParams:
    """A constraint; at most one of these may be set."""

    json: Any = None
    regex: str | None = None
    grammar: str | None = None
    json_object: bool = False
    structural_tag: str | None = None

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name)]
        if len(given) > 1:
            raise ValueError(f"only one guide may be set, not {given}")


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """An unknown keyword is a TypeError. None means the engine's own default."""

    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int | None = 32
    bad: str | Sequence[str] | None = None
    bad_token_ids: Sequence[int] | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    include_stop_str_in_output: bool = False
    embedding_bias: Any = None
    logits_processor: Any = None
    apply_batched_logits_processor: bool = False
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    top_p: float | None = None
    top_p_min: float | None = None
    top_p_reset_ids: int | None = None
    top_p_decay: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    beam_search_diversity_rate: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    prompt_ignore_length: int | None = None
    length_penalty: float | None = None
    early_stopping: int | None = None
    no_repeat_ngram_size: int | None = None
    min_p: float | None = None
    beam_width_array: Sequence[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprobs_mode: str = "RAW"
    return_context_logits: bool = False
    return_generation_logits: bool = False
    exclude_input_from_output: bool = True
    return_encoder_output: bool = False
    return_perf_metrics: bool = False
    additional_model_outputs: Sequence[Any] | None = None
    lookahead_config: Any = None
    guided_decoding: GuidedDecodingParams | None = None
    ignore_eos: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    _return_log_probs: bool = field(default=False, init=False, repr=False)

    @property
    def is_greedy(self) -> bool:
        """Whether the engine decodes greedily, which is the default."""
        if self.temperature == 0 or self.top_k == 1:
            return True
        return not self.top_k and not self.top_p

    @property
    def engine_seed(self) -> int:
        """The engine's seed: 0 where the request has none."""
        return self.seed or 0


_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 2**31 - 1),
    "temperature": (0, float("inf")),
    "top_k": (0, 1024),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "seed": (0, 2**64 - 1),
    "repetition_penalty": (1e-9, float("inf")),
    "prompt_ignore_length": (0, 2**31 - 1),
    "end_id": (-1, 2**31 - 1),
    "pad_id": (-1, 2**31 - 1),
}

_SIMULATED = frozenset(_RANGES) | {
    "presence_penalty",
    "frequency_penalty",
    "stop_token_ids",
    "n",
    "best_of",
    "ignore_eos",
    "detokenize",
    "add_special_tokens",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "exclude_input_from_output",
    "include_stop_str_in_output",
    "embedding_bias",
    "guided_decoding",
    "_return_log_probs",
}


def check(params: SamplingParams, *, gathers_logits: bool, guided_backend: str | None) -> None:
    """Refuse what the library refuses when it is called, and what the double does not simulate.

    Raises:
        ValueError: a value is out of range, or needs an engine loaded otherwise.
        RuntimeError: stop words as text together with an explicit end id.
        NotImplementedError: the double has no such feature.

    """
    for name, (low, high) in _RANGES.items():
        value = getattr(params, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name}: {value} is not in [{low}, {high}]")
    if params.end_id is not None and (params.stop or params.bad):
        raise RuntimeError("stop and bad words were not processed by tokenizer")
    if params.logprobs and not gathers_logits:
        raise ValueError("logprobs needs gather_generation_logits")
    if params.prompt_logprobs:
        raise ValueError("prompt_logprobs needs an engine built with gather_context_logits")
    if params.guided_decoding is not None and guided_backend is None:
        raise ValueError("guided_decoding needs guided_decoding_backend")
    if params.guided_decoding is not None and params.guided_decoding.grammar is None:
        raise NotImplementedError("the double obeys grammars only")
    if params.n != 1 or params.best_of not in (None, 1):
        raise NotImplementedError("the double makes one sequence a request")
    _check_simulated(params)


def _check_simulated(params: SamplingParams) -> None:
    plain = SamplingParams()
    for entry in fields(params):
        if entry.name not in _SIMULATED and getattr(params, entry.name) != getattr(plain, entry.name):
            raise NotImplementedError(f"the double does not simulate {entry.name}")
