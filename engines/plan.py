"""A plan: what to build for a model on a GPU, whether it fits, and how fast it can be at best.

A plan needs no GPU. It is a pure function of its arguments; what cannot be is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines import choices, gpus, memory, model_config
from engines.capacity import Capacity, Decode, decoding, serving, shapes, usual_context
from engines.checks import (
    check_formats,
    check_fraction,
    check_int8_cache,
    check_limits,
    check_memory,
    check_reader,
    check_split,
    check_target,
)
from engines.errors import PlanRefused
from engines.gpus import Gpu
from engines.memory import Limits, Memory
from engines.model_config import ModelConfig
from engines.quantization import WeightFormat
from engines.roofline import Roofline

__all__ = ["Capacity", "Decode", "Plan", "PlanRefused", "plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """An engine that can be built."""

    model: ModelConfig
    gpu: Gpu
    tp: int
    """GPUs that share the engine."""
    form: WeightFormat
    kv_cache: str
    """`bf16` (the model's 16 bits), `fp8` or `int8`."""
    paged_context: bool
    """Whether prompts may be cut into chunks and their KV blocks used again."""
    limits: Limits
    memory_fraction: float
    """Of the memory that is free after loading, what becomes the KV pool."""
    recommended: str
    """The weight format that this GPU is best used with."""
    memory: Memory
    """Of one GPU."""
    capacity: tuple[Capacity, ...]
    decode: tuple[Decode, ...]
    target_tokens_per_second: int | None = None
    """Output tokens a second that all engines together are to reach."""

    @property
    def dtype(self) -> str:
        """What stays unquantised is built in this."""
        return {"bf16": "bfloat16", "fp16": "float16"}.get(self.form.name, self.model.dtype)

    @property
    def built_algo(self) -> str | None:
        """QuantAlgo that the engine's config.json has to name; None: not quantised."""
        own = self.model.quantization
        return (own and own.built_algo) or self.form.algo

    @property
    def is_prequantized(self) -> bool:
        """Whether the checkpoint brings its quantisation along."""
        return self.model.quantization is not None

    @property
    def quantizes(self) -> bool:
        """Whether the build has to quantise the weights."""
        return self.form.is_quantized and not self.is_prequantized

    @property
    def has_fp8_attention(self) -> bool:
        """Whether the builder may use FP8 attention over prompts."""
        return self.kv_cache == "fp8" and self.form.has_fp8_attention and self.gpu.sm >= 89


def plan(
    model: str | Path | ModelConfig,
    gpu: str | Gpu,
    quantization: str | None = None,
    kv_cache: str | None = None,
    tp: int = 1,
    *,
    max_batch_size: int | None = None,
    max_seq_len: int | None = None,
    max_num_tokens: int | None = None,
    paged_context: bool = True,
    memory_fraction: float = 0.9,
    lengths: Sequence[tuple[int, int]] | None = None,
    target_tokens_per_second: int | None = None,
) -> Plan:
    """Plan an engine.

    Args:
        model: see `engines.model_config.load`.
        gpu: a name that `engines.gpus.find` knows.
        quantization: a name of `FORMATS`; None: the checkpoint's own, else the recommended one.
        kv_cache: `bf16`, `fp8` or `int8`; None: the checkpoint's own, else the smallest that keeps paged
            context.
        tp: GPUs that share the engine; must divide the KV heads.
        max_batch_size: 1 or more; None: 512 with FP8 attention, else 256.
        max_seq_len: 1 to the model's max_position_embeddings; None: 8192, or less if the model takes less.
        max_num_tokens: max_batch_size or more; None: 8192.
        paged_context: needed for KV reuse and chunked prefill.
        memory_fraction: above 0, at most 1; `free_gpu_memory_fraction`.
        lengths: prompt and answer tokens of the capacity table; None: a few common shapes that fit.
        target_tokens_per_second: 1 or more; the capacity table then says how many GPUs reach it.

    Raises:
        PlanRefused: it cannot be built, or would not serve a single request of full length.

    """
    config = model_config.load(model)
    target = gpus.find(gpu) if isinstance(gpu, str) else gpu
    check_reader(config)
    check_split(config, tp)
    check_fraction(memory_fraction)
    check_target(target_tokens_per_second)
    best = choices.recommend(config, target, tp)
    form = choices.choose_form(config, quantization, best)
    cache = choices.choose_kv_cache(config, kv_cache, form, target.sm)
    check_formats(form, cache, target, paged_context=paged_context)
    check_int8_cache(config, form, cache)
    limits = choices.choose_limits(
        config, form, cache, batch=max_batch_size, seq=max_seq_len, tokens=max_num_tokens
    )
    check_limits(config, limits)
    division = memory.divide(config, form, cache, target, limits=limits, tp=tp, fraction=memory_fraction)
    check_memory(division, config, target, limits, tp)
    roof = Roofline(config, form, cache, target, tp)
    told = shapes(lengths, limits)
    return Plan(
        model=config,
        gpu=target,
        tp=tp,
        form=form,
        kv_cache=cache,
        paged_context=paged_context,
        limits=limits,
        memory_fraction=memory_fraction,
        recommended=best.name,
        memory=division,
        capacity=tuple(serving(roof, division, limits, shape, target_tokens_per_second) for shape in told),
        decode=decoding(roof, division, limits, usual_context(told, limits)),
        target_tokens_per_second=target_tokens_per_second,
    )
