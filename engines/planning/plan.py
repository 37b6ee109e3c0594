"""Plans an engine: what to build for a model on a GPU, whether it fits, and how fast it can be.

A plan needs no GPU. It is a pure function of its arguments; what cannot be built is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.facts.formats import FORMATS, Support, WeightFormat, kv_verdict, weight_verdict
from engines.facts.gpus import GIB, Gpu, find_gpu
from engines.facts.models import ModelConfig, load_model
from engines.planning.choices import (
    check_formats,
    check_fraction,
    check_int8_cache,
    check_limits,
    check_memory,
    check_reader,
    check_split,
    check_target,
    choose_format,
    choose_kv_cache,
    choose_limits,
    recommend,
)
from engines.planning.memory import Limits, Memory, divide, weight_bytes
from engines.planning.speed import Capacity, Decode, Roofline, decoding, serving, shapes, usual_context

_CALIBRATION_WORKSPACE = 2 * GIB


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
        """The type of weights that are not quantised."""
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
    def calibration_bytes(self) -> int:
        """What quantising takes: the 16-bit weights, and an estimate of everything else."""
        return weight_bytes(self.model, FORMATS["bf16"]) + _CALIBRATION_WORKSPACE

    @property
    def calibrates_on_cpu(self) -> bool:
        """Whether quantising has to use the CPU, as the 16-bit weights are too large for the GPUs."""
        return self.calibration_bytes > self.gpu.usable_bytes * self.tp

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
        model: see `engines.facts.models.load_model`.
        gpu: a name of `engines.facts.gpus.GPUS`, in any usual spelling.
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
    config = load_model(model)
    target = find_gpu(gpu) if isinstance(gpu, str) else gpu
    check_reader(config)
    check_split(config, tp)
    check_fraction(memory_fraction)
    check_target(target_tokens_per_second)
    form, cache = _formats(config, target, tp, quantization, kv_cache, paged_context=paged_context)
    limits = choose_limits(config, form, cache, batch=max_batch_size, seq=max_seq_len, tokens=max_num_tokens)
    check_limits(config, limits)
    roof = Roofline(config, form, cache, target, tp)
    return _plan(
        roof, limits, memory_fraction, lengths, target_tokens_per_second, paged_context=paged_context
    )


def _formats(
    config: ModelConfig,
    gpu: Gpu,
    tp: int,
    quantization: str | None,
    kv_cache: str | None,
    *,
    paged_context: bool,
) -> tuple[WeightFormat, str]:
    """Choose the formats of weights and KV cache; refuse what the GPU or the builder does not take."""
    form = choose_format(config, quantization, recommend(config, gpu, tp))
    cache = choose_kv_cache(config, kv_cache, form, gpu.sm)
    check_formats(form, cache, gpu, paged_context=paged_context)
    check_int8_cache(config, form, cache)
    return form, cache


def _plan(
    roof: Roofline,
    limits: Limits,
    memory_fraction: float,
    lengths: Sequence[tuple[int, int]] | None,
    target_tokens_per_second: int | None,
    *,
    paged_context: bool,
) -> Plan:
    """Divide the memory and estimate the speed of an engine whose formats and limits are chosen."""
    model, form, cache, gpu, tp = roof.model, roof.form, roof.kv_cache, roof.gpu, roof.tp
    memory = divide(model, form, cache, gpu, limits=limits, tp=tp, fraction=memory_fraction)
    check_memory(memory, model, gpu, limits, tp)
    lengths_shown = shapes(lengths, limits)
    return Plan(
        model=model,
        gpu=gpu,
        tp=tp,
        form=form,
        kv_cache=cache,
        paged_context=paged_context,
        limits=limits,
        memory_fraction=memory_fraction,
        recommended=recommend(model, gpu, tp).name,
        memory=memory,
        capacity=tuple(
            serving(roof, memory, limits, shape, target_tokens_per_second) for shape in lengths_shown
        ),
        decode=decoding(roof, memory, limits, usual_context(lengths_shown, limits)),
        target_tokens_per_second=target_tokens_per_second,
    )


def warnings(plan: Plan) -> tuple[str, ...]:
    """List what is risky or surprising about a plan, a sentence each.

    Unverified combinations come first and begin with `unverified: `.
    """
    return (*_unverified(plan), *_surprises(plan))


def _unverified(plan: Plan) -> list[str]:
    sm = plan.gpu.sm
    verdicts = {
        f"{plan.form.name} weights": weight_verdict(plan.form, sm),
        f"{plan.kv_cache} KV cache": kv_verdict(plan.kv_cache, sm),
    }
    return [
        f"unverified: {what} on SM {sm}: {verdict.reason}"
        for what, verdict in verdicts.items()
        if verdict.support is Support.UNVERIFIED
    ]


def _surprises(plan: Plan) -> list[str]:
    found = []
    if plan.form.name == "nvfp4":
        found.append(
            "NVFP4 answers are unmeasured on the compiled path, and a user of 1.2.1 got none of 50 right: "
            "check the answers before you serve it, or take fp8"
        )
    limit = plan.limits.max_num_tokens
    if not plan.paged_context and limit < plan.limits.max_seq_len:
        found.append(
            f"without paged context a prompt is one step: none may be longer than max_num_tokens, {limit}"
        )
    if plan.model.tied_embeddings:
        found.append("the checkpoint has one matrix for embedding and output; the engine is counted with two")
    if plan.is_prequantized and plan.form.name != plan.recommended:
        found.append(f"the checkpoint is {plan.form.name}; recommended for this GPU is {plan.recommended}")
    if plan.quantizes and plan.calibrates_on_cpu:
        found.append("calibration runs on the CPU, very slowly: the GPU is too small for the 16-bit weights")
    if plan.tp > 1:
        found.append("for throughput, one engine a GPU behind a load balancer beats tensor parallelism")
    return found
