"""Recipes have only options that the tools know, and NVIDIA's suggestions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from engines.errors import PlanRefused
from engines.facts import toolchain as tools
from engines.facts.formats import FORMATS, KV_BYTES
from engines.facts.gpus import GPUS
from engines.facts.models import LLAMA_3_1_8B
from engines.planning.plan import Plan, plan
from engines.planning.recipe import Command, Paths, Route, routes
from tests.engines.checkpoints import CONVERTED, LLAMA, modelopt, write

EIGHT_B = "llama-3.1-8b"
TABLES = {"convert": tools.CONVERT, "quantize": tools.QUANTIZE, "build": tools.BUILD}
PROGRAMS = {
    "convert": ("python3", "examples/models/core/llama/convert_checkpoint.py"),
    "quantize": ("python3", "examples/quantization/quantize.py"),
    "build": ("trtllm-build",),
}


def flags_of(command: Command) -> dict[str, str]:
    """The flags of a command with their values; a switch has an empty one."""
    flags: dict[str, str] = {}
    for word in command.argv[len(PROGRAMS[command.stage]) :]:
        if word.startswith("--"):
            assert word not in flags, f"{word} stands there twice"
            flags[word] = ""
        else:
            flags[list(flags)[-1]] += word
    return flags


def route(made: Plan, name: str, paths: Paths | None = None) -> Route:
    return next(r for r in routes(made, paths) if r.name == name)


def attempt(**arguments: Any) -> Plan | None:
    try:
        return plan(EIGHT_B, **arguments)
    except PlanRefused:
        return None


def every_plan(gpu: str) -> list[Plan]:
    """All possible plans for a GPU."""
    plans = [
        attempt(
            gpu=gpu,
            quantization=form,
            kv_cache=kv_cache,
            tp=tp,
            max_batch_size=batch,
            paged_context=paged_context,
        )
        for form, kv_cache in product(FORMATS, KV_BYTES)
        for batch, tp, paged_context in ((4, 1, True), (64, 2, True), (64, 1, False))
    ]
    return [made for made in plans if made]


def checkpoints(directory: Path) -> Iterator[tuple[Path, str]]:
    """Quantised and converted checkpoints, each with a GPU that takes it."""
    yield write(directory / "fp8", LLAMA, hf_quant_config=modelopt("FP8", "FP8")), "h100"
    yield write(directory / "nvfp4", LLAMA, hf_quant_config=modelopt("NVFP4", "FP8")), "b200"
    yield write(directory / "cache", LLAMA, hf_quant_config=modelopt("NVFP4")), "b200"
    for method in ("awq", "gptq", "fbgemm_fp8"):
        config = {**LLAMA, "quantization_config": {"quant_method": method}}
        yield write(directory / method, config), "h100"
    yield write(directory / "converted", CONVERTED), "h100"


def check(made: Plan) -> None:
    """Check that the tools know every flag and value of the commands and every name in the programs."""
    found = routes(made)
    assert {r.name for r in found} == {"trtllm-build", "llm-api"}
    assert found[0].obstacle is None
    for one in found:
        assert bool(one.obstacle) != bool(one.commands)
        for command in one.commands:
            if command.stage == "save":
                assert command.argv == ("python3", "build_engine.py")
                assert one.program is not None
                check_program(one.program)
            else:
                check_command(command)


def check_command(command: Command) -> None:
    program = PROGRAMS[command.stage]
    assert command.argv[: len(program)] == program
    for flag, value in flags_of(command).items():
        choices = TABLES[command.stage][flag]
        assert not choices or value in choices, f"{flag} {value}"


def check_program(text: str) -> None:
    """Check that the tables have all keywords and plugin settings; workers can import the program."""
    tables = {
        "LLM": tools.LLM_ARGUMENTS,
        "BuildConfig": tools.BUILD_CONFIG,
        "QuantConfig": tools.QUANT_CONFIG,
        "CalibConfig": tools.CALIB_CONFIG,
        "KvCacheConfig": tools.KV_CACHE_CONFIG,
    }
    tree = ast.parse(text)
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    used = {"LLM", "QuantAlgo"} & imported
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in tables:
            used.add(node.func.id)
            for keyword in node.keywords:
                assert keyword.arg in tables[node.func.id], keyword.arg
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            assert node.targets[0].attr in tools.PLUGIN_CONFIG
    assert used == imported
    assert isinstance(tree.body[-1], ast.If)


@pytest.mark.parametrize("gpu", ["a100-80", "a10", "l4", "h100", "b200", "b300", "rtx-pro-6000"])
def test_the_tools_know_every_flag(gpu: str) -> None:
    """This covers all formats, KV caches, numbers of GPUs and batches, with and without paged context."""
    plans = every_plan(gpu)

    assert len(plans) >= 9
    for made in plans:
        check(made)


def test_plugins_take_dtypes_and_are_not_enabled() -> None:
    """No tool of 1.2.1 has the value `enable` for them."""
    for name in ("gpt_attention", "gemm", "gemm_swiglu", "low_latency_gemm", "low_latency_gemm_swiglu"):
        assert "enable" not in tools.BUILD[f"--{name}_plugin"]


def test_the_tools_know_every_flag_for_quantised_checkpoints(tmp_path: Path) -> None:
    """The checkpoints are from the hub in each quantization, and converted ones."""
    for directory, gpu in checkpoints(tmp_path):
        check(plan(directory, gpu))


@pytest.mark.parametrize("gpu", [gpu.name for gpu in GPUS])
def test_every_gpu_has_a_recipe(gpu: str) -> None:
    """The default plan ends in an engine directory by every route."""
    [first, *_] = routes(plan(EIGHT_B, gpu))

    assert first.name == "trtllm-build"
    assert [c.stage for c in first.commands][-1] == "build"
    assert flags_of(first.commands[-1])["--output_dir"] == "engine"


@pytest.mark.parametrize(
    ("gpu", "form", "kv_cache", "stage", "expected"),
    [
        ("a100-80", "bf16", "bf16", "convert", {"--dtype": "bfloat16", "--tp_size": "1"}),
        ("h100", "fp8", "fp8", "quantize", {"--qformat": "fp8", "--kv_cache_dtype": "fp8"}),
        ("a10", "int4-awq", "bf16", "quantize", {"--qformat": "int4_awq", "--awq_block_size": "128"}),
        ("b200", "nvfp4", "fp8", "quantize", {"--qformat": "nvfp4", "--kv_cache_dtype": "fp8"}),
        ("h100", "w4a8-awq", "fp8", "quantize", {"--qformat": "w4a8_awq", "--awq_block_size": "128"}),
        ("a10", "int8-sq", "bf16", "quantize", {"--qformat": "int8_sq"}),
        ("a10", "int8-wo", "bf16", "convert", {"--use_weight_only": "", "--weight_only_precision": "int8"}),
        ("a10", "int4-wo", "bf16", "convert", {"--use_weight_only": "", "--weight_only_precision": "int4"}),
        ("h100", "fp8-rowwise", "bf16", "convert", {"--use_fp8_rowwise": ""}),
    ],
)
def test_the_first_step_creates_the_format(
    gpu: str, form: str, kv_cache: str, stage: str, expected: dict[str, str]
) -> None:
    """It is a conversion if no calibration is needed, else a quantisation."""
    first, last = route(plan(EIGHT_B, gpu, form, kv_cache), "trtllm-build").commands

    assert (first.stage, last.stage) == (stage, "build")
    assert expected.items() <= flags_of(first).items()
    assert ("--kv_cache_dtype" in flags_of(first)) == (kv_cache != "bf16")
    assert flags_of(last)["--checkpoint_dir"] == flags_of(first)["--output_dir"] == "checkpoint"


def test_a_quantised_kv_cache_alone_needs_a_quantisation() -> None:
    """convert_checkpoint calibrates an INT8 KV cache, which quantize.py and the LLM API ignore."""
    paths = Paths(calib_dataset="/d")
    for form, precision in (("bf16", None), ("int8-wo", "int8"), ("int4-wo", "int4")):
        made = plan(EIGHT_B, "a40", form, "int8", paged_context=False)
        [first, _] = route(made, "trtllm-build", paths).commands
        flags = flags_of(first)

        assert first.stage == "convert"
        assert "--int8_kv_cache" in flags
        assert flags["--calib_dataset"] == "/d"
        assert flags.get("--weight_only_precision") == precision
        assert "loses an INT8 KV cache" in str(route(made, "llm-api").obstacle)

    made = plan(EIGHT_B, "l4", "bf16", "fp8", paged_context=False)
    assert flags_of(route(made, "trtllm-build").commands[0])["--kv_cache_dtype"] == "fp8"
    assert "quantises the KV cache" in str(route(made, "llm-api").obstacle)


SUGGESTED = {
    "--use_paged_context_fmha": "enable",
    "--multiple_profiles": "enable",
    "--max_num_tokens": "8192",
    "--logits_dtype": "float32",
}


@pytest.mark.parametrize(
    ("gpu", "arguments", "expected", "excluded"),
    [
        ("a100-80", {}, {"--gemm_plugin": "auto", "--max_batch_size": "256"}, ["--reduce_fusion"]),
        ("a10", {}, {"--gemm_plugin": "auto", "--use_fp8_context_fmha": "disable"}, []),
        ("l4", {}, {"--gemm_plugin": "disable", "--use_fp8_context_fmha": "enable"}, []),
        ("h100", {}, {"--gemm_plugin": "disable", "--max_batch_size": "512"}, ["--low_latency_gemm_plugin"]),
        ("b200", {"quantization": "nvfp4"}, {"--use_fp8_context_fmha": "enable"}, ["--gemm_plugin"]),
        ("b200", {}, {"--gemm_plugin": "disable", "--max_batch_size": "512"}, ["--low_latency_gemm_plugin"]),
        ("h100", {"tp": 2}, {"--reduce_fusion": "enable", "--workers": "2"}, []),
        ("h100", {"max_batch_size": 4}, {"--low_latency_gemm_plugin": "fp8"}, []),
        (
            "b200",
            {"max_batch_size": 4, "quantization": "fp8"},
            {"--gemm_plugin": "fp8"},
            ["--low_latency_gemm_plugin"],
        ),
    ],
)
def test_the_build_follows_nvidia_s_suggestions(
    gpu: str, arguments: dict[str, Any], expected: dict[str, str], excluded: list[str]
) -> None:
    """It has the plugin settings that NVIDIA documents for the format, except those that SM 100 lacks."""
    flags = flags_of(route(plan(EIGHT_B, gpu, **arguments), "trtllm-build").commands[-1])

    assert (SUGGESTED | expected).items() <= flags.items()
    assert not set(excluded) & set(flags)


def test_without_paged_context_dependent_features_are_off() -> None:
    """The builder gets the option, and the program loads the engine without KV reuse."""
    made = plan(EIGHT_B, "h100", paged_context=False)
    flags = flags_of(route(made, "trtllm-build").commands[-1])

    assert flags["--use_paged_context_fmha"] == "disable"
    assert "KvCacheConfig(enable_block_reuse=False)" in str(route(made, "llm-api").program)


def test_both_routes_build_the_same_engine() -> None:
    """Limits, plugins and split agree between the flags and the program."""
    made = plan(EIGHT_B, "h100", tp=2, max_batch_size=32, max_seq_len=4096, max_num_tokens=2048)
    flags = flags_of(route(made, "trtllm-build").commands[-1])
    program = str(route(made, "llm-api").program)

    for limit in ("max_batch_size", "max_seq_len", "max_num_tokens", "max_beam_width"):
        assert program.count(f"        {limit}={flags['--' + limit]},\n") == 2
    spelled = {"enable": "True", "disable": "False"}
    for plugin in ("use_paged_context_fmha", "use_fp8_context_fmha", "multiple_profiles", "reduce_fusion"):
        assert f"plugin_config.{plugin} = {spelled[flags['--' + plugin]]}\n" in program
    assert "plugin_config.gemm_plugin = None\n" in program
    assert "tensor_parallel_size=2," in program
    assert "QuantConfig(quant_algo=QuantAlgo.FP8, kv_cache_quant_algo=QuantAlgo.FP8)" in program


def test_the_llm_api_quantises_to_nvfp4() -> None:
    """It uses modelopt, as for FP8."""
    assert "quant_algo=QuantAlgo.NVFP4" in str(route(plan(EIGHT_B, "b200", "nvfp4"), "llm-api").program)


@pytest.mark.parametrize("form", ["fp8-rowwise", "int8-wo", "int4-wo"])
def test_the_llm_api_route_is_refused_for_unsupported_formats(form: str) -> None:
    """The LLM API supports five formats, and the other route all."""
    first, second = routes(plan(EIGHT_B, "h100", form))

    assert (first.name, second.name) == ("trtllm-build", "llm-api")
    assert second.obstacle == f"the LLM API does not quantise to {form} by itself"


def test_a_quantised_checkpoint_is_built_without_quantising(tmp_path: Path) -> None:
    """modelopt's checkpoints are built by the LLM API first, others only by convert_checkpoint."""
    found = {
        directory.name: routes(plan(directory, gpu))
        for directory, gpu in checkpoints(tmp_path)
        if directory.name != "converted"
    }

    for name, (first, second) in found.items():
        if name in ("awq", "gptq", "fbgemm_fp8"):
            assert first.name == "trtllm-build"
            assert flags_of(first.commands[0])["--model_dir"] == str(tmp_path / name)
            assert f"does not load {name} checkpoints" in str(second.obstacle)
            continue
        assert first.name == "llm-api"
        assert "QuantConfig" not in str(first.program)
        assert str(tmp_path / name) in str(first.program)
        assert (second.obstacle is None) == (name != "fp8")
    assert "does not read modelopt FP8" in str(found["fp8"][1].obstacle)
    assert {"--use_nvfp4", "--fp8_kv_cache"} <= set(flags_of(found["nvfp4"][1].commands[0]))
    assert "--fp8_kv_cache" not in flags_of(found["cache"][1].commands[0])


def test_a_converted_checkpoint_is_only_compiled(tmp_path: Path) -> None:
    """There is one step, with the checkpoint itself."""
    directory = write(tmp_path, CONVERTED)
    [command] = routes(plan(directory, "h100"))[0].commands

    assert command.stage == "build"
    assert flags_of(command)["--checkpoint_dir"] == str(directory)


def test_large_models_are_calibrated_where_they_fit() -> None:
    """The device is one GPU, several GPUs, or the CPU."""
    large = replace(LLAMA_3_1_8B, hidden_size=8192, layers=80, heads=64, intermediate_size=28_672)

    def device(gpu: str, tp: int) -> dict[str, str]:
        made = plan(large, gpu, "fp8", tp=tp, max_batch_size=32)
        flags = flags_of(route(made, "trtllm-build").commands[0])
        return {name: value for name, value in flags.items() if "device" in name}

    assert device("b200", 1) == {"--device": "cuda"}
    assert device("h100", 2) == {"--device": "cuda", "--device_map": "auto"}
    assert device("h200", 1) == {"--device": "cuda"}
    assert device("h100-nvl", 1) == {"--device": "cpu", "--device_map": "cpu"}
    assert "CalibConfig(device='cpu'" in str(
        route(plan(large, "h100-nvl", "fp8", max_batch_size=32), "llm-api").program
    )


def test_commands_have_the_given_paths() -> None:
    """The paths are directories, the timing cache (read only if it exists), and the calibration data."""
    paths = Paths("/m", "/c", "/e", "/x", "/p.py", "/t", has_timing_cache=True, calib_dataset="/d")
    made = plan(EIGHT_B, "h100")
    quantize, build = route(made, "trtllm-build", paths).commands
    saved = route(made, "llm-api", paths)

    assert quantize.argv[1] == "/x/quantization/quantize.py"
    assert f"{quantize.argv}".count("'/m'") == f"{quantize.argv}".count("'/d'") == 1
    assert build.argv[-4:] == ("--input_timing_cache", "/t", "--output_timing_cache", "/t")
    assert saved.commands[0].argv == ("python3", "/p.py")
    for expected in ("model='/m'", "save('/e')", "input_timing_cache='/t'", "calib_dataset='/d'"):
        assert expected in str(saved.program)
    assert "input_timing_cache" not in str(route(made, "llm-api").program)
