"""How to build a plan's engine: the exact commands of the two routes that TensorRT-LLM 1.2.1 has.

trtllm-build   convert or quantise the checkpoint, then compile it; each step can be done again by itself
llm-api        one Python program that quantises, compiles, loads and saves (`engines.save_program`)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engines import tools
from engines.commands import Command, Paths, build, calibrates_on_cpu, convert, quantize
from engines.model_config import CheckpointQuantization
from engines.plan import Plan
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

    A quantised Hugging Face checkpoint is best built by the LLM API, which takes it as it is; everything else
    by trtllm-build, whose steps can be repeated one by one.
    """
    paths = paths or (Paths(model=plan.model.path) if plan.model.path else Paths())
    compiled, saved = _trtllm_build(plan, paths), _llm_api(plan, paths)
    if plan.is_prequantized and plan.model.source == "huggingface":
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
    if plan.is_prequantized or plan.model.source == "tensorrt-llm":
        return None
    if not plan.form.is_quantized:
        return None if plan.kv_cache == "bf16" else "the LLM API quantises the KV cache with the weights only"
    if plan.form.algo not in tools.MODELOPT_FLOW:
        return f"the LLM API does not quantise to {plan.form.name} by itself"
    return None


def _trtllm_build(plan: Plan, paths: Paths) -> Route:
    own = plan.model.quantization
    if plan.model.source == "tensorrt-llm":
        return Route("trtllm-build", None, (build(plan, paths, paths.model),))
    if own is not None and not _converts(own):
        return Route("trtllm-build", f"convert_checkpoint does not read {own.method} checkpoints")
    return Route("trtllm-build", None, (_first_step(plan, paths), build(plan, paths, paths.checkpoint)))


def _converts(own: CheckpointQuantization) -> bool:
    return own.method in ("fbgemm_fp8", "awq", "gptq") or own.format == "nvfp4"


def _first_step(plan: Plan, paths: Paths) -> Command:
    """Convert what needs no calibration, quantise everything else."""
    name, has_cache_scales = plan.form.name, plan.kv_cache != "bf16"
    cache = (f"--{plan.kv_cache}_kv_cache",) if has_cache_scales else ()
    if plan.is_prequantized:
        return convert(plan, paths, ("--use_nvfp4", *cache) if name == "nvfp4" else ())
    if name == "fp8-rowwise":
        return convert(plan, paths, ("--use_fp8_rowwise", *cache))
    if name in ("bf16", "fp16") and not has_cache_scales:
        return convert(plan, paths)
    if name in ("int8-wo", "int4-wo") and not has_cache_scales:
        precision = name.removesuffix("-wo")
        return convert(plan, paths, ("--use_weight_only", "--weight_only_precision", precision))
    return quantize(plan, paths)
