"""Plugin settings of a build, the same for both routes."""

from __future__ import annotations

from engines.memory import BLOCK_TOKENS
from engines.plan import Plan

Plugins = dict[str, "bool | int | str | None"]


def plugins(plan: Plan) -> Plugins:
    """The settings as NVIDIA recommends them for the format; None switches a plugin off.

    Whatever the builder would otherwise change by itself, with no more than a line in its log, is said here.
    """
    chosen = _matrices(plan)
    chosen |= {
        "use_paged_context_fmha": plan.paged_context,
        "use_fp8_context_fmha": plan.has_fp8_attention,
        "tokens_per_block": BLOCK_TOKENS,
        "multiple_profiles": True,
    }
    if plan.tp > 1:
        chosen["reduce_fusion"] = True
    return chosen


def _matrices(plan: Plan) -> Plugins:
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
