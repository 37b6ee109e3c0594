"""What a plan takes where nobody says: formats and limits."""

from __future__ import annotations

from engines import memory
from engines.errors import PlanRefused
from engines.gpus import Gpu
from engines.memory import Limits
from engines.model_config import ModelConfig
from engines.quantization import (
    FORMATS,
    Support,
    WeightFormat,
    default_kv_cache,
    find_format,
    find_kv_cache,
    weight_verdict,
)


def recommend(model: ModelConfig, gpu: Gpu, tp: int = 1) -> WeightFormat:
    """Choose the format that a GPU is best used with, as far as it is known to answer well.

    FP8 from SM 89 on as long as the weights leave a fifth of the memory; below, 16 bits as long as they leave
    half. Else INT4 AWQ, or NVFP4 where the builder refuses INT4. NVFP4 is no default: nobody has measured the
    answers of a compiled one, and the one report there is of 1.2.1 has none of 50 right.
    """
    usable = gpu.usable_bytes
    if weight_verdict(FORMATS["fp8"], gpu.sm).support is not Support.NO:
        fits = memory.weight_bytes(model, FORMATS["fp8"], tp) <= 0.8 * usable
        takes_int4 = weight_verdict(FORMATS["int4-awq"], gpu.sm).support is not Support.NO
        return FORMATS["fp8" if fits else "int4-awq" if takes_int4 else "nvfp4"]
    plain = FORMATS["fp16" if model.dtype == "float16" else "bf16"]
    return plain if memory.weight_bytes(model, plain, tp) <= 0.5 * usable else FORMATS["int4-awq"]


def choose_form(model: ModelConfig, asked: str | None, best: WeightFormat) -> WeightFormat:
    """Take what is asked for, else what the checkpoint has, else the best.

    Raises:
        PlanRefused: the format is unknown, or the checkpoint cannot be brought into it.

    """
    own = _own_form(model)
    if own is None:
        form = best if asked is None else find_format(asked)
        if form.name == "int4-gptq":
            reason = "TensorRT-LLM makes no GPTQ; give a checkpoint that is quantised so, or take int4-awq"
            raise PlanRefused("quantization", form.name, reason)
        return form
    if asked is not None and find_format(asked) != own:
        reason = f"the checkpoint is {own.name} already ({_method(model)}), and stays so"
        raise PlanRefused("quantization", asked, reason)
    return own


def choose_kv_cache(model: ModelConfig, asked: str | None, form: WeightFormat, sm: int) -> str:
    """Take what is asked for, else what the checkpoint has, else the smallest that keeps paged context.

    Raises:
        PlanRefused: the format is unknown, or the checkpoint has no scales for it.

    """
    if _own_form(model) is None:
        return default_kv_cache(form, sm) if asked is None else find_kv_cache(asked)
    own = (model.quantization and model.quantization.kv_cache) or "bf16"
    if asked is not None and find_kv_cache(asked) != own:
        raise PlanRefused("kv_cache", asked, f"the checkpoint ({_method(model)}) is made for {own}")
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
    """Take the limits asked for, else NVIDIA's suggestions: a small KV cache has room for larger batches."""
    common = 512 if kv_cache == "fp8" and form.has_fp8_attention else 256
    return Limits(
        max_batch_size=common if batch is None else batch,
        max_seq_len=min(8192, model.max_position_embeddings) if seq is None else seq,
        max_num_tokens=8192 if tokens is None else tokens,
    )


def _own_form(model: ModelConfig) -> WeightFormat | None:
    """The format that a checkpoint cannot leave; None where it is free."""
    plain = FORMATS["fp16" if model.dtype == "float16" else "bf16"]
    if model.quantization is not None:
        own = FORMATS[model.quantization.format]
        return own if own.is_quantized else plain
    return plain if model.source == "tensorrt-llm" else None


def _method(model: ModelConfig) -> str:
    return model.quantization.method if model.quantization else "TensorRT-LLM's, unquantised"
