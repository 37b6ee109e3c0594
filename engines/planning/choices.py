"""Chooses the formats and limits of a plan, and refuses what cannot be built."""

from __future__ import annotations

from engines.errors import PlanRefused
from engines.facts.formats import (
    CONVERTED_INT8_KV,
    FORMATS,
    Support,
    Verdict,
    WeightFormat,
    default_kv_cache,
    find_format,
    find_kv_cache,
    kv_verdict,
    paged_context_obstacle,
    weight_verdict,
)
from engines.facts.gpus import GPUS_PER_NODE, Gpu, gib
from engines.facts.models import ModelConfig
from engines.planning.memory import Limits, Memory, weight_bytes


def recommend(model: ModelConfig, gpu: Gpu, tp: int = 1) -> WeightFormat:
    """Choose the format that a GPU is best used with, as far as it is known to answer well.

    FP8 from SM 89 on as long as the weights leave a fifth of the memory; below, 16 bits as long as they leave
    half. Else INT4 AWQ, or NVFP4 where the builder refuses INT4. NVFP4 is no default: its
    answers are unmeasured on the compiled path, and the one report of 1.2.1 has none of 50 right.
    """
    usable = gpu.usable_bytes
    if weight_verdict(FORMATS["fp8"], gpu.sm).support is not Support.NO:
        fits = weight_bytes(model, FORMATS["fp8"], tp) <= 0.8 * usable
        takes_int4 = weight_verdict(FORMATS["int4-awq"], gpu.sm).support is not Support.NO
        return FORMATS["fp8" if fits else "int4-awq" if takes_int4 else "nvfp4"]
    plain = FORMATS["fp16" if model.dtype == "float16" else "bf16"]
    return plain if weight_bytes(model, plain, tp) <= 0.5 * usable else FORMATS["int4-awq"]


def choose_format(model: ModelConfig, requested: str | None, best: WeightFormat) -> WeightFormat:
    """Take the requested format, else the checkpoint's own, else the best.

    Raises:
        PlanRefused: the format is unknown, or the checkpoint cannot be brought into it.

    """
    own = _checkpoint_format(model)
    if own is None:
        form = best if requested is None else find_format(requested)
        if form.name == "int4-gptq":
            reason = "TensorRT-LLM makes no GPTQ; give a checkpoint that is quantised so, or take int4-awq"
            raise PlanRefused("quantization", form.name, reason)
        return form
    if requested is not None and find_format(requested) != own:
        reason = f"the checkpoint is {own.name} already ({_method(model)}), and stays so"
        raise PlanRefused("quantization", requested, reason)
    return own


def choose_kv_cache(model: ModelConfig, requested: str | None, form: WeightFormat, sm: int) -> str:
    """Take the requested format, else the checkpoint's own, else the smallest that keeps paged context.

    Raises:
        PlanRefused: the format is unknown, or the checkpoint has no scales for it.

    """
    if _checkpoint_format(model) is None:
        return default_kv_cache(form, sm) if requested is None else find_kv_cache(requested)
    own = (model.quantization and model.quantization.kv_cache) or "bf16"
    if requested is not None and find_kv_cache(requested) != own:
        raise PlanRefused("kv_cache", requested, f"the checkpoint ({_method(model)}) is made for {own}")
    return own


def choose_limits(
    model: ModelConfig,
    form: WeightFormat,
    kv_cache: str,
    *,
    batch: int | None,
    seq: int | None,
    tokens: int | None,
) -> Limits:
    """Take the requested limits, else NVIDIA's suggestions: a smaller KV cache permits larger batches."""
    common = 512 if kv_cache == "fp8" and form.has_fp8_attention else 256
    return Limits(
        max_batch_size=common if batch is None else batch,
        max_seq_len=min(8192, model.max_position_embeddings) if seq is None else seq,
        max_num_tokens=8192 if tokens is None else tokens,
    )


def _checkpoint_format(model: ModelConfig) -> WeightFormat | None:
    """The format that a checkpoint cannot leave; None where it is free."""
    plain = FORMATS["fp16" if model.dtype == "float16" else "bf16"]
    if model.quantization is not None:
        own = FORMATS[model.quantization.format]
        return own if own.is_quantized else plain
    return plain if model.source == "tensorrt-llm" else None


def _method(model: ModelConfig) -> str:
    return model.quantization.method if model.quantization else "TensorRT-LLM's, unquantised"


def check_split(model: ModelConfig, tp: int) -> None:
    """Refuse a number of GPUs that the model cannot be split over."""
    if tp < 1:
        raise PlanRefused("tp", tp, "is not 1 or more")
    if model.kv_heads % tp:
        fitting = ", ".join(str(n) for n in range(1, GPUS_PER_NODE + 1) if model.kv_heads % n == 0)
        raise PlanRefused("tp", tp, f"does not divide the {model.kv_heads} KV heads; take one of {fitting}")
    for what, size in (("attention heads", model.heads), ("intermediate size", model.intermediate_size)):
        if size % tp:
            raise PlanRefused("tp", tp, f"does not divide the {what} {size}")
    if tp > GPUS_PER_NODE:
        raise PlanRefused("tp", tp, f"only engines for one machine of up to {GPUS_PER_NODE} GPUs are planned")
    if model.tp_size is not None and model.tp_size != tp:
        reason = (
            f"the checkpoint is converted for {model.tp_size}; convert it anew, or take tp {model.tp_size}"
        )
        raise PlanRefused("tp", tp, reason)


def check_fraction(fraction: float) -> None:
    """Refuse a share of the memory outside (0, 1]."""
    if not 0 < fraction <= 1:
        raise PlanRefused("memory_fraction", fraction, "is not above 0 and at most 1")


def check_formats(form: WeightFormat, kv_cache: str, gpu: Gpu, *, paged_context: bool) -> None:
    """Refuse formats that the architecture does not take, or that exclude each other."""
    where = f"on {gpu.title} (SM {gpu.sm})"
    _check("quantization", form.name, weight_verdict(form, gpu.sm), where)
    _check("kv_cache", kv_cache, kv_verdict(kv_cache, gpu.sm), where)
    obstacle = paged_context_obstacle(form, kv_cache, gpu.sm)
    if paged_context and obstacle:
        remedy = "take kv_cache bf16, or do without paged context (no KV reuse, no chunked prefill)"
        raise PlanRefused("kv_cache", kv_cache, f"{obstacle}; {remedy}")


def check_int8_cache(model: ModelConfig, form: WeightFormat, kv_cache: str) -> None:
    """Refuse an INT8 KV cache that the build would silently leave out."""
    if kv_cache == "int8" and model.quantization is None and form.name not in CONVERTED_INT8_KV:
        reason = (
            f"quantize.py of TensorRT-LLM 1.2.1 loses it with {form.name} weights, and the engine would have "
            f"a 16-bit cache; take kv_cache bf16, or one of {', '.join(sorted(CONVERTED_INT8_KV))} weights"
        )
        raise PlanRefused("kv_cache", kv_cache, reason)


def check_reader(model: ModelConfig) -> None:
    """Refuse a quantised checkpoint that no tool of TensorRT-LLM 1.2.1 reads."""
    own = model.quantization
    if own is None or model.source != "huggingface":
        return
    if not (own.is_loaded_by_llm_api or own.is_read_by_convert):
        reason = (
            "TensorRT-LLM 1.2.1 reads it only from the file hf_quant_config.json that modelopt's export "
            "writes; export the checkpoint anew, or give the unquantised one"
        )
        raise PlanRefused("config.json: quantization_config.quant_method", own.method, reason)


def _check(field: str, found: str, verdict: Verdict, where: str) -> None:
    if verdict.support is Support.NO:
        raise PlanRefused(field, found, f"not possible {where}: {verdict.reason}")


def check_limits(model: ModelConfig, limits: Limits) -> None:
    """Refuse limits that are out of range or contradict each other."""
    for field in ("max_batch_size", "max_seq_len", "max_num_tokens"):
        if getattr(limits, field) < 1:
            raise PlanRefused(field, getattr(limits, field), "is not 1 or more")
    if limits.max_seq_len > model.max_position_embeddings:
        reason = f"is more than the model's max_position_embeddings, {model.max_position_embeddings}"
        raise PlanRefused("max_seq_len", limits.max_seq_len, reason)
    if limits.max_batch_size > limits.max_num_tokens:
        reason = f"a step has a token of every request, more than max_num_tokens, {limits.max_num_tokens}"
        raise PlanRefused("max_batch_size", limits.max_batch_size, reason)


def check_shape(prompt: int, output: int, limits: Limits) -> None:
    """Refuse a request for the capacity table that the engine would refuse."""
    if prompt < 1 or output < 1:
        raise PlanRefused("lengths", f"{prompt} + {output}", "prompt and answer have 1 token or more")
    if prompt + output > limits.max_seq_len:
        reason = f"is more than max_seq_len, {limits.max_seq_len}"
        raise PlanRefused("lengths", f"{prompt} + {output}", reason)


def check_target(target: int | None) -> None:
    """Refuse a speed below 1 token a second."""
    if target is not None and target < 1:
        raise PlanRefused("target_tokens_per_second", target, "is not 1 or more")


def check_memory(memory: Memory, model: ModelConfig, gpu: Gpu, limits: Limits, tp: int) -> None:
    """Refuse an engine that does not fit, or leaves no memory for one request of full length."""
    if memory.weights >= memory.total:
        reason = f"weights take {gib(memory.weights)} of the {gib(memory.total)} of one {gpu.title}"
        raise PlanRefused("gpu", gpu.name, f"{reason}; {_more_memory(model, tp)}")
    if memory.kv_pool < memory.block_bytes:
        reason = (
            f"leaves no KV cache: weights {gib(memory.weights)} and workspace {gib(memory.workspace)} "
            f"(about) of {gib(memory.total)}; take less max_batch_size or max_num_tokens, or "
        )
        raise PlanRefused("max_batch_size", limits.max_batch_size, reason + _more_memory(model, tp))
    if memory.requests(limits.max_seq_len) < 1:
        reason = (
            f"not one request of that length fits: the KV pool holds {memory.tokens} tokens "
            f"({gib(memory.kv_pool)}); take at most that, or less max_batch_size or max_num_tokens"
        )
        raise PlanRefused("max_seq_len", limits.max_seq_len, reason)


def _more_memory(model: ModelConfig, tp: int) -> str:
    more = [n for n in range(tp + 1, GPUS_PER_NODE + 1) if model.kv_heads % n == 0]
    return "a smaller format, a larger GPU" + (f", or tp {more[0]}" if more else "")
