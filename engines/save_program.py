"""The program of the llm-api route, as text: it needs nothing but TensorRT-LLM on the GPU machine."""

from __future__ import annotations

from typing import Any

from engines.plan import Plan
from engines.plugins import plugins

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


def save_program(
    plan: Plan,
    *,
    model: str,
    engine: str,
    timing_cache: str,
    has_timing_cache: bool,
    calib_dataset: str,
    calib_device: str,
) -> str:
    """Write the program that builds, loads and saves.

    Args:
        plan: what to build.
        model: directory of the checkpoint.
        engine: directory to save to.
        timing_cache: file of kernel timings; written, and read too if `has_timing_cache`.
        has_timing_cache: whether it is there already.
        calib_dataset: see `engines.recipe.Paths`.
        calib_device: `cuda` or `cpu`.

    """
    limits = {
        "max_batch_size": plan.limits.max_batch_size,
        "max_num_tokens": plan.limits.max_num_tokens,
        "max_seq_len": plan.limits.max_seq_len,
        "max_beam_width": 1,
    }
    build: dict[str, Any] = {**limits, "output_timing_cache": timing_cache}
    if has_timing_cache:
        build["input_timing_cache"] = timing_cache
    # The limits stand here once more: their defaults may exceed the engine's, which is an error.
    llm = {
        "model": repr(model),
        "build_config": "build_config",
        **_quantization(plan, calib_dataset, calib_device),
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
        engine=engine,
    )


def _imports(plan: Plan) -> str:
    names = ["BuildConfig"]
    if plan.quantizes:
        names += ["CalibConfig", "QuantAlgo", "QuantConfig"]
    if not plan.paged_context:
        names += ["KvCacheConfig"]
    api = f"from tensorrt_llm.llmapi import {', '.join(sorted(names))}"
    return "from tensorrt_llm._tensorrt_engine import LLM\n" + api


def _quantization(plan: Plan, calib_dataset: str, calib_device: str) -> dict[str, str]:
    if not plan.quantizes:
        return {}
    algos = {"quant_algo": f"QuantAlgo.{plan.form.algo}"}
    if plan.kv_cache != "bf16":
        algos["kv_cache_quant_algo"] = f"QuantAlgo.{plan.kv_cache.upper()}"
    quant = ", ".join(f"{name}={value}" for name, value in algos.items())
    return {
        "quant_config": f"QuantConfig({quant})",
        "calib_config": f"CalibConfig(device={calib_device!r}, calib_dataset={calib_dataset!r})",
    }


def _arguments(values: dict[str, Any]) -> str:
    return "\n" + "".join(f"        {name}={value},\n" for name, value in values.items()) + "    "
