"""Shared code of the doubles of TensorRT-LLM's command line tools: strict flags, faults, and output files.

DOUBLE_FAULT   `stage:fault`: that stage prints the error of the fault and fails; see `FAULTS`. Also
               `stage:kill-early` and `stage:kill-late`: the parent process is killed, before anything or
               after everything is written.
DOUBLE_LOG     a file that gets a line for every stage that runs: its name
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

FAULTS = {
    "rope-scaling": "    rotary_type = hf_config.rope_scaling['type']\nKeyError: 'type'",
    "old-rope-scaling": "ValueError: `rope_scaling` must be a dictionary with two fields, `type` and",
    "transformers": "ImportError: cannot import name 'AutoProcessor' from 'transformers' (unknown location)",
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB.",
    "trt-oom": "[TRT] [E] Error Code 2: OutOfMemory (Requested size was 9079422976 bytes. "
    "Cuda Runtime (out of memory))",
    "mpi": "ImportError: libmpi.so.40: cannot open shared object file: No such file or directory",
    "mpi4py": "ModuleNotFoundError: No module named 'mpi4py'",
    "no-tensorrt-llm": "ModuleNotFoundError: No module named 'tensorrt_llm'",
    "libpython": "ImportError: libpython3.12.so.1.0: cannot open shared object file: No such file",
    "no-gpu": "RuntimeError: No CUDA GPUs are available",
    "driver": "CUDA driver version is insufficient for CUDA runtime version",
    "disk": "OSError: [Errno 28] No space left on device",
    "dataset": "ConnectionError: Couldn't reach 'cnn_dailymail' on the Hub",
    "column": "    dataset = dataset['article'][:calib_size]\nKeyError: 'article'",
    "sm": "ValueError: INT8/INT4 quantization is not supported on SM>=100",
    "unknown": "AssertionError: nobody has seen this before.",
}


def begin(stage: str) -> None:
    """Log that a stage runs, and fail if DOUBLE_FAULT says so."""
    if os.environ.get("DOUBLE_LOG"):
        with Path(os.environ["DOUBLE_LOG"]).open("a", encoding="ascii") as log:
            log.write(stage + "\n")
    print(f"[TensorRT-LLM] TensorRT-LLM version: {_version()}")
    fault = _fault(stage)
    if fault == "kill-early":
        os.kill(os.getppid(), signal.SIGKILL)
        sys.exit(1)
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault in FAULTS:
        print("Traceback (most recent call last):", FAULTS[fault], sep="\n", file=sys.stderr)
        sys.exit(1)


def end(stage: str) -> None:
    """Kill the parent process after everything is written, if DOUBLE_FAULT says so."""
    if _fault(stage) == "kill-late":
        os.kill(os.getppid(), signal.SIGKILL)


def parse(known: Mapping[str, tuple[str, ...]], argv: Sequence[str]) -> dict[str, str]:
    """Parse flags. Unknown flags, repeated flags and invalid values are refused."""
    found: dict[str, str] = {}
    words = list(argv)
    if "--help" in words:
        print("options:", *known, sep="\n  ")
        sys.exit(0)
    while words:
        flag = words.pop(0)
        value = words.pop(0) if words and not words[0].startswith("--") else ""
        if flag not in known or flag in found:
            _refuse(f"unrecognized arguments: {flag}")
        if known[flag] and value not in known[flag]:
            _refuse(f"argument {flag}: invalid choice: {value!r} (choose from {known[flag]})")
        found[flag] = value
    return found


def write_checkpoint(
    flags: Mapping[str, str], algo: str | None, kv_algo: str | None, *, logits_dtype: str
) -> None:
    """Write the files of a converted or quantised checkpoint."""
    builder = import_module("tensorrt_llm.builder")
    enums = import_module("tensorrt_llm.configs")
    model = json.loads((Path(flags["--model_dir"]) / "config.json").read_text())
    quant = builder.QuantConfig(
        quant_algo=enums.QuantAlgo(algo) if algo else None,
        kv_cache_quant_algo=enums.QuantAlgo(kv_algo) if kv_algo else None,
    )
    tp_size = int(flags.get("--tp_size", "1"))
    directory = Path(flags["--output_dir"])
    directory.mkdir(parents=True, exist_ok=True)
    for rank in range(tp_size):
        (directory / f"rank{rank}.safetensors").write_bytes(bytes(4096))
    config = builder._pretrained_config(model, quant, tp_size, logits_dtype)
    (directory / "config.json").write_text(json.dumps(config, indent=4))


def write_engine(flags: Mapping[str, str]) -> None:
    """Write the output of `trtllm-build`: config.json, one plan per rank, and the timing cache."""
    builder = import_module("tensorrt_llm.builder")
    pretrained = json.loads((Path(flags["--checkpoint_dir"]) / "config.json").read_text())
    if "--input_timing_cache" in flags:
        Path(flags["--input_timing_cache"]).read_bytes()
    pretrained["logits_dtype"] = flags.get("--logits_dtype", pretrained["logits_dtype"])
    quant = builder.QuantConfig(**pretrained["quantization"])
    world_size = pretrained["mapping"]["world_size"]
    settings = build_config(builder, flags)
    build = settings.adjusted(quant, pretrained["max_position_embeddings"], world_size)
    directory = Path(flags["--output_dir"])
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "version": _version(),
        "pretrained_config": pretrained,
        "build_config": build.model_dump(mode="json", exclude={"dry_run", "visualize_network"}),
    }
    (directory / "config.json").write_text(json.dumps(config, indent=4))
    for rank in range(world_size):
        (directory / f"rank{rank}.engine").write_text("{}" + " " * 200_000)
    Path(flags.get("--output_timing_cache", "model.cache")).write_bytes(b"timings")


def build_config(builder: Any, flags: Mapping[str, str]) -> Any:
    """The settings that the flags of `trtllm-build` stand for."""
    plugins, build = builder.PluginConfig(), builder.BuildConfig()
    for flag, value in flags.items():
        name = flag.removeprefix("--")
        if name in builder.PluginConfig.model_fields:
            kind = builder.PluginConfig.model_fields[name].annotation
            setattr(plugins, name, _plugin_value(value, is_switch=kind is bool))
        elif name == "kv_cache_type":
            build.kv_cache_type = value.upper()
        elif name in builder.BuildConfig.model_fields:
            setattr(build, name, int(value) if value.isdecimal() else value)
    build.plugin_config = plugins
    return build


def _plugin_value(value: str, *, is_switch: bool) -> object:
    if is_switch:
        return value == "enable"
    if value == "disable":
        return None
    return int(value) if value.isdecimal() else value


def _fault(stage: str) -> str:
    name, _, fault = os.environ.get("DOUBLE_FAULT", "").partition(":")
    return fault if name == stage else ""


def _version() -> str:
    version: str = import_module("tensorrt_llm").__version__
    return version


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
