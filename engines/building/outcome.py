"""Whether what was built is what was planned: the builder changes settings on its own."""

from __future__ import annotations

from collections.abc import Iterator

from engines.engine_config import EngineConfig
from engines.finding import Finding, shown
from engines.plan import Plan

_KV_ALGOS = {"fp8": "FP8", "int8": "INT8"}


def compare(plan: Plan, config: EngineConfig) -> Iterator[Finding]:
    """Name what came out otherwise. Another format or split is an error, another limit a warning."""
    quantization, limits, plugins = config.quantization, config.limits, config.plugins
    algo = None if quantization.quant_algo == "NO_QUANT" else quantization.quant_algo
    where = "pretrained_config.quantization"
    if not _same_algo(algo, plan.built_algo):
        yield _finding(f"{where}.quant_algo", algo, plan.built_algo, is_error=True)
    if quantization.kv_cache_quant_algo != _KV_ALGOS.get(plan.kv_cache):
        planned = _KV_ALGOS.get(plan.kv_cache)
        yield _finding(
            f"{where}.kv_cache_quant_algo", quantization.kv_cache_quant_algo, planned, is_error=True
        )
    if config.split.tp_size != plan.tp:
        yield _finding("pretrained_config.mapping.tp_size", config.split.tp_size, plan.tp, is_error=True)
    for name in ("max_batch_size", "max_seq_len", "max_num_tokens"):
        if getattr(limits, name) != getattr(plan.limits, name):
            yield _finding(f"build_config.{name}", getattr(limits, name), getattr(plan.limits, name))
    if plugins.use_paged_context_fmha != plan.paged_context:
        where = "build_config.plugin_config.use_paged_context_fmha"
        yield _finding(where, plugins.use_paged_context_fmha, plan.paged_context)


def _same_algo(found: str | None, planned: str | None) -> bool:
    """SmoothQuant has one format in plans and several names in engines."""
    prefix = "W8A8_SQ_"
    both_smooth = all(algo is not None and algo.startswith(prefix) for algo in (found, planned))
    return found == planned or both_smooth


def _finding(field: str, found: object, planned: object, *, is_error: bool = False) -> Finding:
    return Finding(field, shown(found), f"the plan's {shown(planned)}", "error" if is_error else "warning")
