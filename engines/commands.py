"""The steps of the trtllm-build route as command lines, flag by flag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engines import tools
from engines.memory import weight_bytes
from engines.plan import Plan
from engines.plugins import plugins
from engines.quantization import FORMATS
from engines.units import GIB

_QFORMATS = {
    "bf16": "full_prec",
    "fp16": "full_prec",
    "fp8": "fp8",
    "nvfp4": "nvfp4",
    "int4-awq": "int4_awq",
    "w4a8-awq": "w4a8_awq",
    "int8-sq": "int8_sq",
    "int8-wo": "int8_wo",
    "int4-wo": "int4_wo",
}
_CALIBRATION_BYTES = 2 * GIB
"""What calibration needs beside the 16-bit weights; an estimate."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a build finds and puts its files."""

    model: str = "Llama-3.1-8B-Instruct"
    """Directory of the checkpoint to start from."""
    checkpoint: str = "checkpoint"
    """Directory for TensorRT-LLM's checkpoint, between the two steps."""
    engine: str = "engine"
    examples: str = "examples"
    """The `examples` directory of TensorRT-LLM's source tree."""
    program: str = "build_engine.py"
    """File of the llm-api program."""
    timing_cache: str = "model.cache"
    """File that keeps kernel timings for the next build."""
    has_timing_cache: bool = False
    """Whether that file is there already."""
    calib_dataset: str = "cnn_dailymail"
    """A data set of the hub, or a local directory with a split `train` and a column `text`. A path with
    "cnn_dailymail" in it is read as that set, whose column is `article`. The default needs the network."""


@dataclass(frozen=True, slots=True)
class Command:
    """One step of a build."""

    stage: Literal["convert", "quantize", "build", "save"]
    argv: tuple[str, ...]


def convert(plan: Plan, paths: Paths, flags: tuple[str, ...] = ()) -> Command:
    """Bring a checkpoint into TensorRT-LLM's format; `flags` say in which precision."""
    argv = (
        *("python3", f"{paths.examples}/{tools.CONVERT_SCRIPT}"),
        *("--model_dir", paths.model),
        *("--output_dir", paths.checkpoint),
        *("--dtype", plan.dtype),
        *("--tp_size", str(plan.tp)),
        *flags,
    )
    return Command("convert", argv)


def quantize(plan: Plan, paths: Paths) -> Command:
    """Quantise weights, KV cache or both, by calibration."""
    cache = () if plan.kv_cache == "bf16" else ("--kv_cache_dtype", plan.kv_cache)
    block = ("--awq_block_size", "128") if plan.form.name in ("int4-awq", "w4a8-awq") else ()
    argv = (
        *("python3", f"{paths.examples}/{tools.QUANTIZE_SCRIPT}"),
        *("--model_dir", paths.model),
        *("--output_dir", paths.checkpoint),
        *("--dtype", plan.dtype),
        *("--tp_size", str(plan.tp)),
        *("--qformat", _QFORMATS[plan.form.name]),
        *cache,
        *block,
        *("--calib_dataset", paths.calib_dataset),
        *("--calib_size", "512", "--calib_max_seq_length", "512", "--batch_size", "1"),
        *_calibration_device(plan),
    )
    return Command("quantize", argv)


def build(plan: Plan, paths: Paths, checkpoint: str) -> Command:
    """Compile TensorRT-LLM's checkpoint into an engine."""
    known = ("--input_timing_cache", paths.timing_cache) if paths.has_timing_cache else ()
    argv = (
        tools.BUILD_PROGRAM,
        *("--checkpoint_dir", checkpoint),
        *("--output_dir", paths.engine),
        *("--max_batch_size", str(plan.limits.max_batch_size)),
        *("--max_seq_len", str(plan.limits.max_seq_len)),
        *("--max_num_tokens", str(plan.limits.max_num_tokens)),
        *("--max_beam_width", "1"),
        *("--kv_cache_type", "paged"),
        # quantize.py writes float16 for bf16 models, which leaves log probabilities three digits.
        *("--logits_dtype", "float32"),
        *(part for name, value in plugins(plan).items() for part in (f"--{name}", _value(value))),
        *("--workers", str(plan.tp)),
        *known,
        *("--output_timing_cache", paths.timing_cache),
    )
    return Command("build", argv)


def calibrates_on_cpu(plan: Plan) -> bool:
    """Whether quantising has to use the CPU, as the 16-bit weights are too large for the GPUs."""
    return _calibration_bytes(plan) > plan.gpu.usable_bytes * plan.tp


def _calibration_bytes(plan: Plan) -> int:
    return weight_bytes(plan.model, FORMATS["bf16"]) + _CALIBRATION_BYTES


def _calibration_device(plan: Plan) -> tuple[str, ...]:
    if calibrates_on_cpu(plan):
        return ("--device", "cpu", "--device_map", "cpu")
    one_is_enough = _calibration_bytes(plan) <= plan.gpu.usable_bytes
    return ("--device", "cuda", *(() if one_is_enough else ("--device_map", "auto")))


def _value(setting: bool | int | str | None) -> str:
    if isinstance(setting, bool):
        return "enable" if setting else "disable"
    return "disable" if setting is None else str(setting)
