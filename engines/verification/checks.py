"""Checks config.json: for contradictions, against the manifest, and against this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from engines.errors import Document, Finding, shown
from engines.facts.engine_directory import EngineConfig
from engines.facts.formats import Support, kv_verdict, weight_verdict
from engines.facts.gpus import gib
from engines.facts.machine import InstalledGpu, Runtime
from engines.manifest import BuildGpu, Manifest
from engines.planning.memory import Limits, kv_bytes_per_token, workspace_bytes
from engines.verification.files import model_of, weight_format

SUPPORTED = ">=1.2.1,<1.3"
_FP8_ATTENTION = frozenset({"FP8", "W4A8_AWQ", "NVFP4"})


def check_config(config: EngineConfig) -> Iterator[Finding]:
    """Check config.json by itself."""
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
        expected = f"at least max_batch_size, {limits.max_batch_size}"
        yield Finding("build_config.max_num_tokens", str(limits.max_num_tokens), expected, "warning")
    for name in ("gather_context_logits", "gather_generation_logits"):
        if getattr(limits, name):
            expected = "False: logits of whole vocabularies make serving slow, and aborts dangerous"
            yield Finding(f"build_config.{name}", "True", expected, "warning")


def _check_plugins(config: EngineConfig) -> Iterator[Finding]:
    plugins, quantization, where = config.plugins, config.quantization, "build_config.plugin_config"
    if plugins.streamingllm:
        yield Finding(f"{where}.streamingllm", "True", "False: the runtime does not support it")
    for name in ("context_fmha", "remove_input_padding"):
        if not getattr(plugins, name):
            yield Finding(f"{where}.{name}", "False", "True", "warning")
    if not plugins.use_paged_context_fmha:
        expected = "True: without it there is no KV reuse and no chunked prefill"
        yield Finding(f"{where}.use_paged_context_fmha", "False", expected, "warning")
    if plugins.use_fp8_context_fmha and quantization.quant_algo not in _FP8_ATTENTION:
        expected = f"False, as the builder sets it with {quantization.quant_algo or 'unquantised'} weights"
        yield Finding(f"{where}.use_fp8_context_fmha", "True", expected, "warning")
    if plugins.use_paged_context_fmha and quantization.kv_cache_quant_algo == "INT8":
        expected = "False, as the builder sets it with an INT8 KV cache"
        yield Finding(f"{where}.use_paged_context_fmha", "True", expected, "warning")
    if plugins.tokens_per_block & (plugins.tokens_per_block - 1):
        yield Finding(f"{where}.tokens_per_block", str(plugins.tokens_per_block), "a power of 2", "warning")


def check_against_manifest(config: EngineConfig, manifest: Manifest) -> Iterator[Finding]:
    """Compare config.json with what the manifest recorded after the build, name by name."""
    if config.version != manifest.software.tensorrt_llm:
        yield Finding("version", config.version, f"the manifest's {manifest.software.tensorrt_llm}")
    sections: dict[str, tuple[Document, Document]] = {
        "pretrained_config": (config.shape, manifest.model),
        "pretrained_config.mapping": (config.split, manifest.mapping),
        "pretrained_config.quantization": (config.quantization, manifest.quantization),
        "build_config": (config.limits, manifest.limits),
        "build_config.plugin_config": (config.plugins, manifest.plugins),
    }
    for where, (current, recorded) in sections.items():
        expected = recorded.model_dump()
        for name, value in current.model_dump().items():
            if value != expected[name]:
                yield Finding(f"{where}.{name}", shown(value), f"the manifest's {shown(expected[name])}")


_KV_FORMATS = {None: "bf16", "FP8": "fp8", "INT8": "int8"}


def check_machine(
    directory: Path, config: EngineConfig, manifest: Manifest | None, runtime: Runtime
) -> Iterator[Finding]:
    """Compare the machine with what the engine is, and with what it was built on."""
    yield from _check_software(config, manifest, runtime)
    if not runtime.gpus:
        yield Finding("gpu", "none here", "one, to compare SM and memory with", "unchecked")
        return
    yield from _check_count(config, runtime)
    yield from _check_architecture(config, manifest.gpu if manifest else None, runtime.gpus)
    for index, gpu in enumerate(runtime.gpus[: config.split.world_size]):
        yield from _check_memory(directory, config, index, gpu)


def _check_software(config: EngineConfig, manifest: Manifest | None, runtime: Runtime) -> Iterator[Finding]:
    if runtime.tensorrt_llm is None:
        expected = f"TensorRT-LLM {config.version}, to compare with"
        yield Finding("tensorrt_llm", "none installed", expected, "unchecked")
    elif runtime.tensorrt_llm != config.version:
        yield Finding("version", config.version, f"the installed TensorRT-LLM, {runtime.tensorrt_llm}")
    built = manifest.software if manifest else None
    if built is None or built.tensorrt is None or runtime.tensorrt is None:
        yield Finding(
            "tensorrt",
            f"{runtime.tensorrt or 'none'} installed",
            f"the build's, {(built and built.tensorrt) or 'which is not recorded'}",
            "unchecked",
        )
    elif runtime.tensorrt != built.tensorrt:
        yield Finding("tensorrt", f"{runtime.tensorrt} installed", f"the build's, {built.tensorrt}")
    if built and built.driver and runtime.driver and _numbers(runtime.driver) < _numbers(built.driver):
        yield Finding("driver", runtime.driver, f"the build's, {built.driver}, or newer", "warning")


def _check_count(config: EngineConfig, runtime: Runtime) -> Iterator[Finding]:
    if len(runtime.gpus) < config.split.world_size:
        yield Finding("gpus", str(len(runtime.gpus)), f"{config.split.world_size}, one for each rank")


def _check_architecture(
    config: EngineConfig, built: BuildGpu | None, gpus: tuple[InstalledGpu, ...]
) -> Iterator[Finding]:
    used = gpus[: config.split.world_size]
    other = next((gpu for gpu in used if built and gpu.sm != built.sm), None)
    if built is None:
        yield Finding("gpu.sm", str(used[0].sm), "the build's, which is not recorded", "unchecked")
    elif other is not None:
        yield Finding("gpu.sm", f"{other.sm} ({other.name})", f"the build's, {built.sm} ({built.name})")
    elif any(gpu.name != built.name for gpu in used):
        expected = f"the build's, {built.name}, which its kernels were chosen on"
        yield Finding("gpu.name", used[0].name, expected, "warning")
    yield from _check_formats(config, used[0].sm)


def _check_formats(config: EngineConfig, sm: int) -> Iterator[Finding]:
    where, quantization = "pretrained_config.quantization", config.quantization
    form, cache = weight_format(config), _KV_FORMATS.get(quantization.kv_cache_quant_algo)
    if form is not None and weight_verdict(form, sm).support is Support.NO:
        expected = f"what SM {sm} takes: {weight_verdict(form, sm).reason}"
        yield Finding(f"{where}.quant_algo", str(quantization.quant_algo), expected)
    if cache is not None and kv_verdict(cache, sm).support is Support.NO:
        expected = f"what SM {sm} takes: {kv_verdict(cache, sm).reason}"
        yield Finding(f"{where}.kv_cache_quant_algo", str(quantization.kv_cache_quant_algo), expected)


def _check_memory(directory: Path, config: EngineConfig, rank: int, gpu: InstalledGpu) -> Iterator[Finding]:
    """The plan is what the weights take; workspace and KV cache come on top."""
    file = directory / f"rank{rank}.engine"
    plan = file.stat().st_size if file.is_file() else 0
    least = plan + _beside_weights(config)
    where = f"gpu {rank}: memory"
    if plan >= gpu.memory_bytes:
        yield Finding(where, f"{gib(gpu.memory_bytes)} on {gpu.name}", f"more than the plan's {gib(plan)}")
    elif least > gpu.memory_bytes:
        expected = f"about {gib(least)}, for the plan, its workspace and one request of full length"
        yield Finding(where, f"{gib(gpu.memory_bytes)} on {gpu.name}", expected, "warning")
    elif least > gpu.free_bytes:
        yield Finding(where, f"{gib(gpu.free_bytes)} free", f"about {gib(least)}", "warning")


def _beside_weights(config: EngineConfig) -> int:
    built, model = config.limits, model_of(config)
    limits = Limits(built.max_batch_size, built.max_seq_len, built.max_num_tokens)
    cache = _KV_FORMATS.get(config.quantization.kv_cache_quant_algo) or "bf16"
    tp = config.split.tp_size
    return workspace_bytes(model, limits, tp) + built.max_seq_len * kv_bytes_per_token(model, cache, tp)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
