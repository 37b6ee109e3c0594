"""Whether this machine can load the engine: versions, architecture, number and memory of GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from engines.engine_config import EngineConfig
from engines.finding import Finding
from engines.manifest import BuildGpu, Manifest
from engines.memory import Limits, kv_bytes_per_token, workspace_bytes
from engines.quantization import Support, kv_verdict, weight_verdict
from engines.runtime import InstalledGpu, Runtime
from engines.units import gib
from engines.verification.files import model_of, weight_format

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
        wanted = f"TensorRT-LLM {config.version}, to compare with"
        yield Finding("tensorrt_llm", "none installed", wanted, "unchecked")
    elif runtime.tensorrt_llm != config.version:
        yield Finding("version", config.version, f"the installed TensorRT-LLM, {runtime.tensorrt_llm}")
    built = manifest.software if manifest else None
    if built is None or built.tensorrt is None or runtime.tensorrt is None:
        yield Finding(
            "tensorrt",
            f"{runtime.tensorrt or 'none'} installed",
            f"the build's, {(built and built.tensorrt) or 'which nobody noted'}",
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
        yield Finding("gpu.sm", str(used[0].sm), "the build's, which nobody noted", "unchecked")
    elif other is not None:
        yield Finding("gpu.sm", f"{other.sm} ({other.name})", f"the build's, {built.sm} ({built.name})")
    elif any(gpu.name != built.name for gpu in used):
        wanted = f"the build's, {built.name}, which its kernels were chosen on"
        yield Finding("gpu.name", used[0].name, wanted, "warning")
    yield from _check_formats(config, used[0].sm)


def _check_formats(config: EngineConfig, sm: int) -> Iterator[Finding]:
    where, quantization = "pretrained_config.quantization", config.quantization
    form, cache = weight_format(config), _KV_FORMATS.get(quantization.kv_cache_quant_algo)
    if form is not None and weight_verdict(form, sm).support is Support.NO:
        wanted = f"what SM {sm} takes: {weight_verdict(form, sm).reason}"
        yield Finding(f"{where}.quant_algo", str(quantization.quant_algo), wanted)
    if cache is not None and kv_verdict(cache, sm).support is Support.NO:
        wanted = f"what SM {sm} takes: {kv_verdict(cache, sm).reason}"
        yield Finding(f"{where}.kv_cache_quant_algo", str(quantization.kv_cache_quant_algo), wanted)


def _check_memory(directory: Path, config: EngineConfig, rank: int, gpu: InstalledGpu) -> Iterator[Finding]:
    """The plan is what the weights take; workspace and KV cache come on top."""
    file = directory / f"rank{rank}.engine"
    plan = file.stat().st_size if file.is_file() else 0
    least = plan + _beside_weights(config)
    where = f"gpu {rank}: memory"
    if plan >= gpu.memory_bytes:
        yield Finding(where, f"{gib(gpu.memory_bytes)} on {gpu.name}", f"more than the plan's {gib(plan)}")
    elif least > gpu.memory_bytes:
        wanted = f"about {gib(least)}, for the plan, its workspace and one request of full length"
        yield Finding(where, f"{gib(gpu.memory_bytes)} on {gpu.name}", wanted, "warning")
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
