"""What config.json says by itself, and whether one part of it denies another."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engines.engine_config import EngineConfig
from engines.finding import Finding

SUPPORTED = ">=1.2.1,<1.3"
_FP8_ATTENTION = frozenset({"FP8", "W4A8_AWQ", "NVFP4"})


def check_config(config: EngineConfig) -> Iterator[Finding]:
    """Look at it; nothing else is needed."""
    yield from _check_version(config.version)
    yield from _check_shape(config)
    yield from _check_split(config)
    yield from _check_limits(config)
    yield from _check_plugins(config)


def is_supported(version: str) -> bool:
    """Whether a version is a release of the line that still runs compiled engines."""
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(?:\.post\d+)?(?:\+.*)?", version)
    return match is not None and (1, 2, 1) <= tuple(map(int, match.groups()[:3])) < (1, 3)


def _check_version(version: str) -> Iterator[Finding]:
    if not is_supported(version):
        yield Finding("version", version, f"a TensorRT-LLM {SUPPORTED}: build the engine with that")


def _check_shape(config: EngineConfig) -> Iterator[Finding]:
    shape, split = config.shape, config.split
    heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
    if shape.architecture != "LlamaForCausalLM":
        yield Finding(
            "pretrained_config.architecture",
            shape.architecture,
            "LlamaForCausalLM, all that is tried",
            "warning",
        )
    if config.logits_dtype == "float16":
        yield Finding(
            "pretrained_config.logits_dtype",
            "float16",
            "float32, or log probabilities have three digits: build by trtllm-build with --logits_dtype",
            "warning",
        )
    if heads % kv_heads:
        yield Finding(
            "pretrained_config.num_key_value_heads",
            str(kv_heads),
            f"a divisor of the {heads} attention heads",
        )
    if kv_heads % split.tp_size:
        yield Finding(
            "pretrained_config.mapping.tp_size", str(split.tp_size), f"a divisor of the {kv_heads} KV heads"
        )


def _check_split(config: EngineConfig) -> Iterator[Finding]:
    split = config.split
    product = split.tp_size * split.pp_size * split.cp_size
    if split.world_size != product:
        yield Finding(
            "pretrained_config.mapping.world_size",
            str(split.world_size),
            f"tp_size x pp_size x cp_size = {product}",
        )


def _check_limits(config: EngineConfig) -> Iterator[Finding]:
    limits, positions = config.limits, config.shape.max_position_embeddings
    if limits.kv_cache_type.upper() != "PAGED":
        yield Finding("build_config.kv_cache_type", limits.kv_cache_type, "PAGED")
    if limits.max_seq_len > positions:
        yield Finding(
            "build_config.max_seq_len",
            str(limits.max_seq_len),
            f"at most max_position_embeddings, {positions}",
            "warning",
        )
    if limits.max_num_tokens < limits.max_batch_size:
        wanted = f"at least max_batch_size, {limits.max_batch_size}"
        yield Finding("build_config.max_num_tokens", str(limits.max_num_tokens), wanted, "warning")
    for name in ("gather_context_logits", "gather_generation_logits"):
        if getattr(limits, name):
            wanted = "False: logits of whole vocabularies make serving slow, and aborts dangerous"
            yield Finding(f"build_config.{name}", "True", wanted, "warning")


def _check_plugins(config: EngineConfig) -> Iterator[Finding]:
    plugins, quantization, where = config.plugins, config.quantization, "build_config.plugin_config"
    if plugins.streamingllm:
        yield Finding(f"{where}.streamingllm", "True", "False: the runtime does not support it")
    for name in ("context_fmha", "remove_input_padding"):
        if not getattr(plugins, name):
            yield Finding(f"{where}.{name}", "False", "True", "warning")
    if not plugins.use_paged_context_fmha:
        wanted = "True: without it there is no KV reuse and no chunked prefill"
        yield Finding(f"{where}.use_paged_context_fmha", "False", wanted, "warning")
    if plugins.use_fp8_context_fmha and quantization.quant_algo not in _FP8_ATTENTION:
        wanted = f"False, as the builder sets it with {quantization.quant_algo or 'unquantised'} weights"
        yield Finding(f"{where}.use_fp8_context_fmha", "True", wanted, "warning")
    if plugins.use_paged_context_fmha and quantization.kv_cache_quant_algo == "INT8":
        wanted = "False, as the builder sets it with an INT8 KV cache"
        yield Finding(f"{where}.use_paged_context_fmha", "True", wanted, "warning")
    if plugins.tokens_per_block & (plugins.tokens_per_block - 1):
        yield Finding(f"{where}.tokens_per_block", str(plugins.tokens_per_block), "a power of 2", "warning")
