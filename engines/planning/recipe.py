"""Writes the commands that build a plan's engine, for both routes of TensorRT-LLM 1.2.1.

trtllm-build   convert or quantise the checkpoint, then compile it; each step can be repeated alone
llm-api        one Python program that quantises, compiles, loads and saves
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from engines.facts import toolchain as tools
from engines.facts.formats import CONVERTED_INT8_KV
from engines.planning.memory import BLOCK_TOKENS
from engines.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths of a build's files."""

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


@dataclass(frozen=True, slots=True)
class Route:
    """One way to build the engine."""

    name: Literal["trtllm-build", "llm-api"]
    obstacle: str | None
    """Why this route cannot be taken; then there are no commands."""
    commands: tuple[Command, ...] = ()
    program: str | None = None
    """Text of the file that the last command runs; llm-api only."""


def routes(plan: Plan, paths: Paths | None = None) -> tuple[Route, Route]:
    """List both routes, the recommended one first; that one is always open.

    A Hugging Face checkpoint that modelopt quantised is best built by the LLM API, which takes it as it is;
    everything else by trtllm-build, whose steps can be repeated one by one.
    """
    paths = paths or (Paths(model=plan.model.path) if plan.model.path else Paths())
    compiled, saved = _trtllm_build(plan, paths), _llm_api(plan, paths)
    if plan.is_prequantized and plan.model.source == "huggingface" and not saved.obstacle:
        return saved, compiled
    return compiled, saved


def _llm_api(plan: Plan, paths: Paths) -> Route:
    obstacle = _llm_api_obstacle(plan)
    if obstacle:
        return Route("llm-api", obstacle)
    program = save_program(plan, paths)
    return Route("llm-api", None, (Command("save", ("python3", paths.program)),), program)


def _llm_api_obstacle(plan: Plan) -> str | None:
    own = plan.model.quantization
    if own is not None and plan.model.source == "huggingface" and not own.is_loaded_by_llm_api:
        return f"the LLM API of 1.2.1 does not load {own.method} checkpoints, only modelopt's own export"
    if plan.is_prequantized or plan.model.source == "tensorrt-llm":
        return None
    if plan.kv_cache == "int8":
        return "the LLM API of 1.2.1 loses an INT8 KV cache"
    if not plan.form.is_quantized:
        only = "the LLM API quantises the KV cache with the weights only"
        return None if plan.kv_cache == "bf16" else only
    if plan.form.algo not in tools.MODELOPT_FLOW:
        return f"the LLM API does not quantise to {plan.form.name} by itself"
    return None


def _trtllm_build(plan: Plan, paths: Paths) -> Route:
    own = plan.model.quantization
    if plan.model.source == "tensorrt-llm":
        return Route("trtllm-build", None, (build(plan, paths, paths.model),))
    if own is not None and not own.is_read_by_convert:
        return Route("trtllm-build", f"convert_checkpoint does not read {own.method} checkpoints")
    return Route("trtllm-build", None, (_first_step(plan, paths), build(plan, paths, paths.checkpoint)))


def _first_step(plan: Plan, paths: Paths) -> Command:
    """Convert what needs no calibration, or an INT8 KV cache; quantise everything else."""
    name, kv_cache = plan.form.name, plan.kv_cache
    cache = () if kv_cache == "bf16" else (f"--{kv_cache}_kv_cache",)
    # An INT8 cache is calibrated by convert_checkpoint, as quantize.py loses it.
    calibration = ("--calib_dataset", paths.calib_dataset) if kv_cache == "int8" else ()
    if plan.is_prequantized:
        return convert(plan, paths, ("--use_nvfp4", *cache) if name == "nvfp4" else ())
    if name == "fp8-rowwise":
        return convert(plan, paths, ("--use_fp8_rowwise", *cache))
    if name in CONVERTED_INT8_KV and kv_cache != "fp8":
        precision = ("--use_weight_only", "--weight_only_precision", name.removesuffix("-wo"))
        return convert(plan, paths, (*(precision if name.endswith("-wo") else ()), *cache, *calibration))
    return quantize(plan, paths)


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
        *(part for name, value in plugins(plan).items() for part in (f"--{name}", _flag_value(value))),
        *("--workers", str(plan.tp)),
        *known,
        *("--output_timing_cache", paths.timing_cache),
    )
    return Command("build", argv)


def _calibration_device(plan: Plan) -> tuple[str, ...]:
    if plan.calibrates_on_cpu:
        return ("--device", "cpu", "--device_map", "cpu")
    one_is_enough = plan.calibration_bytes <= plan.gpu.usable_bytes
    return ("--device", "cuda", *(() if one_is_enough else ("--device_map", "auto")))


def _flag_value(setting: bool | int | str | None) -> str:
    if isinstance(setting, bool):
        return "enable" if setting else "disable"
    return "disable" if setting is None else str(setting)


PluginSettings = dict[str, "bool | int | str | None"]


def plugins(plan: Plan) -> PluginSettings:
    """The settings as NVIDIA recommends them for the format; None switches a plugin off.

    Whatever the builder would otherwise change by itself, with no more than a line in its log, is set here.
    """
    chosen = _gemm_plugins(plan)
    chosen |= {
        "use_paged_context_fmha": plan.paged_context,
        "use_fp8_context_fmha": plan.has_fp8_attention,
        "tokens_per_block": BLOCK_TOKENS,
        "multiple_profiles": True,
    }
    if plan.tp > 1:
        chosen["reduce_fusion"] = True
    return chosen


def _gemm_plugins(plan: Plan) -> PluginSettings:
    """For NVFP4 and FP8 rowwise the builder picks the plugin itself; plain FP8 is faster without one.

    Except at batches of up to 4: there the low-latency plugin is, or on SM 100, which has none, the usual
    one.
    """
    if plan.form.name in ("nvfp4", "fp8-rowwise"):
        return {}
    if plan.form.name != "fp8":
        return {"gemm_plugin": "auto"}
    if plan.limits.max_batch_size > 4:
        return {"gemm_plugin": None}
    if 100 <= plan.gpu.sm < 120:
        return {"gemm_plugin": "fp8"}
    return {"gemm_plugin": None, "low_latency_gemm_plugin": "fp8"}


_PROGRAM = '''\
"""Builds a TensorRT-LLM 1.2.1 engine: {title}."""

{imports}


def main():
    build_config = BuildConfig({build})
{plugins}
    llm = LLM({llm})
    llm.save({engine!r})
    llm.shutdown()


# The LLM starts processes that load this file again.
if __name__ == "__main__":
    main()
'''


def save_program(plan: Plan, paths: Paths) -> str:
    """Write the program of the llm-api route, which builds, loads and saves.

    It needs nothing but TensorRT-LLM on the machine with the GPU.
    """
    limits = {
        "max_batch_size": plan.limits.max_batch_size,
        "max_num_tokens": plan.limits.max_num_tokens,
        "max_seq_len": plan.limits.max_seq_len,
        "max_beam_width": 1,
    }
    build: dict[str, Any] = {**limits, "output_timing_cache": paths.timing_cache}
    if paths.has_timing_cache:
        build["input_timing_cache"] = paths.timing_cache
    # The limits are passed once more: their defaults may exceed the engine's, which is an error.
    llm = {
        "model": repr(paths.model),
        "build_config": "build_config",
        **_quantization(plan, paths.calib_dataset),
        **({} if plan.paged_context else {"kv_cache_config": "KvCacheConfig(enable_block_reuse=False)"}),
        "tensor_parallel_size": plan.tp,
        "dtype": repr(plan.dtype),
        **limits,
    }
    return _PROGRAM.format(
        title=f"{plan.model.name} in {plan.form.name} for {plan.gpu.title}",
        imports=_imports(plan),
        build=_arguments({name: repr(value) for name, value in build.items()}),
        plugins="\n".join(
            f"    build_config.plugin_config.{name} = {value!r}" for name, value in plugins(plan).items()
        ),
        llm=_arguments(llm),
        engine=paths.engine,
    )


def _imports(plan: Plan) -> str:
    names = ["BuildConfig"]
    if plan.quantizes:
        names += ["CalibConfig", "QuantAlgo", "QuantConfig"]
    if not plan.paged_context:
        names += ["KvCacheConfig"]
    api = f"from tensorrt_llm.llmapi import {', '.join(sorted(names))}"
    return "from tensorrt_llm._tensorrt_engine import LLM\n" + api


def _quantization(plan: Plan, calib_dataset: str) -> dict[str, str]:
    if not plan.quantizes:
        return {}
    algos = {"quant_algo": f"QuantAlgo.{plan.form.algo}"}
    if plan.kv_cache != "bf16":
        algos["kv_cache_quant_algo"] = f"QuantAlgo.{plan.kv_cache.upper()}"
    quant = ", ".join(f"{name}={value}" for name, value in algos.items())
    calib_device = "cpu" if plan.calibrates_on_cpu else "cuda"
    return {
        "quant_config": f"QuantConfig({quant})",
        "calib_config": f"CalibConfig(device={calib_device!r}, calib_dataset={calib_dataset!r})",
    }


def _arguments(values: dict[str, Any]) -> str:
    return "\n" + "".join(f"        {name}={value},\n" for name, value in values.items()) + "    "
