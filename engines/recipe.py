"""How to build a plan's engine: the exact commands of the two routes that TensorRT-LLM 1.2.1 has.

trtllm-build   convert or quantise the checkpoint, then compile it; each step can be done again by itself
llm-api        one Python program that quantises, compiles, loads and saves (`engines.save_program`)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engines import tools
from engines.commands import Command, Paths, build, calibrates_on_cpu, convert, quantize
from engines.plan import Plan
from engines.quantization import CONVERTED_INT8_KV
from engines.save_program import save_program

__all__ = ["Command", "Paths", "Route", "routes"]


@dataclass(frozen=True, slots=True)
class Route:
    """One way to the engine."""

    name: Literal["trtllm-build", "llm-api"]
    obstacle: str | None
    """Why this way is closed; then there are no commands."""
    commands: tuple[Command, ...] = ()
    program: str | None = None
    """Text of the file that the last command runs; llm-api only."""


def routes(plan: Plan, paths: Paths | None = None) -> tuple[Route, Route]:
    """Both ways, the recommended one first; that one is always open.

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
    program = save_program(
        plan,
        model=paths.model,
        engine=paths.engine,
        timing_cache=paths.timing_cache,
        has_timing_cache=paths.has_timing_cache,
        calib_dataset=paths.calib_dataset,
        calib_device="cpu" if calibrates_on_cpu(plan) else "cuda",
    )
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
