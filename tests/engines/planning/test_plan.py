"""Plans: the defaults, and every error."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from engines.errors import PlanRefused
from engines.facts.formats import FORMATS, KV_BYTES
from engines.facts.gpus import GPUS
from engines.facts.models import LLAMA_3_1_8B, ModelConfig
from engines.planning.plan import Plan, plan, warnings
from tests.engines.checkpoints import CONVERTED, LLAMA, modelopt, write

EIGHT_B = "llama-3.1-8b"


def seventy_b(**changes: Any) -> ModelConfig:
    """The sizes of Llama-3.1-70B."""
    sizes: dict[str, Any] = {
        "name": "llama-3.1-70b",
        "hidden_size": 8192,
        "layers": 80,
        "heads": 64,
        "intermediate_size": 28_672,
    }
    return replace(LLAMA_3_1_8B, **{**sizes, **changes})


def refusal(model: str | Path | ModelConfig, gpu: str, **arguments: Any) -> PlanRefused:
    """Make a plan that must be refused with one line. Return the reason."""
    with pytest.raises(PlanRefused) as refused:
        plan(model, gpu, **arguments)
    assert "\n" not in str(refused.value)
    assert str(refused.value) == f"{refused.value.field} {refused.value.found}: {refused.value.reason}"
    return refused.value


@pytest.mark.parametrize(
    ("gpu", "formats", "weights", "kv_bytes", "pool"),
    [
        ("h200", "fp8 fp8", 9_081_200_640, 65_536, (1_878_176, 512)),
        ("l4", "fp8 fp8", 9_081_200_640, 65_536, (141_728, 70)),
        ("a10", "int4-awq bf16", 5_700_591_616, 131_072, (99_648, 49)),
        ("b200", "fp8 fp8", 9_081_200_640, 65_536, (2_447_808, 512)),
    ],
)
def test_the_plan_for_each_gpu(
    gpu: str, formats: str, weights: int, kv_bytes: int, pool: tuple[int, int]
) -> None:
    """Formats, weights, KV cache, tokens of the pool, and how many requests of 1000 + 1000 fit."""
    made = plan(EIGHT_B, gpu)

    assert f"{made.form.name} {made.kv_cache}" == formats
    assert made.recommended == made.form.name
    assert (made.memory.weights, made.memory.kv_bytes_per_token) == (weights, kv_bytes)
    thousand = next(c for c in made.capacity if (c.prompt_tokens, c.output_tokens) == (1000, 1000))
    assert (made.memory.tokens, thousand.requests) == pool
    assert warnings(made) == ()


@pytest.mark.parametrize(
    ("gpu", "form"),
    [
        ("a100-80", "bf16"),
        ("a100-40", "bf16"),
        ("a40", "bf16"),
        ("a10", "int4-awq"),
        ("l40s", "fp8"),
        ("rtx4090", "fp8"),
        ("h100", "fp8"),
        ("gh200", "fp8"),
        ("b300", "fp8"),
        ("rtx-pro-6000", "fp8"),
        ("rtx5090", "fp8"),
    ],
)
def test_the_recommended_format(gpu: str, form: str) -> None:
    """FP8 if the GPU supports it, since NVFP4's answers are not measured; below SM 89 a format that fits."""
    assert plan(EIGHT_B, gpu).recommended == form


def test_a_model_too_large_for_fp8_is_recommended_int4() -> None:
    """70B in FP8 would fill one H100, but fits on two."""
    assert plan(seventy_b(), "h100", max_batch_size=64).form.name == "int4-awq"
    assert plan(seventy_b(), "h100", tp=2).form.name == "fp8"


@pytest.mark.parametrize("gpu", [gpu.name for gpu in GPUS])
def test_the_default_plan_is_possible_on_every_gpu(gpu: str) -> None:
    """A plan needs no flags except the GPU."""
    made = plan(EIGHT_B, gpu)

    assert made.memory.requests(made.limits.max_seq_len) >= 1
    assert made.capacity
    assert made.decode[-1].batch <= made.limits.max_batch_size


@pytest.mark.parametrize(("form", "batch"), [("bf16", 256), ("fp8", 512), ("int4-awq", 256)])
def test_default_limits(form: str, batch: int) -> None:
    """8192 tokens a request and a step; batches as large as the KV cache is small."""
    limits = plan(EIGHT_B, "h100", form).limits

    assert (limits.max_batch_size, limits.max_seq_len, limits.max_num_tokens) == (batch, 8192, 8192)


def test_a_short_model_has_short_requests() -> None:
    """The default length never exceeds what the model was trained for."""
    assert plan(replace(LLAMA_3_1_8B, max_position_embeddings=2048), "l4").limits.max_seq_len == 2048


def test_more_memory_for_the_cache_means_more_requests() -> None:
    """`memory_fraction` is of what is free after loading."""
    half, nine_tenths = (plan(EIGHT_B, "l4", memory_fraction=f).memory for f in (0.5, 0.9))

    assert nine_tenths.kv_pool == pytest.approx(half.kv_pool * 1.8)


def test_the_plan_reports_the_requested_lengths() -> None:
    """There is one shape, with decoding at half of the answer."""
    made = plan(EIGHT_B, "l4", lengths=[(1500, 300)])

    assert [(c.prompt_tokens, c.output_tokens) for c in made.capacity] == [(1500, 300)]
    assert made.capacity[0].requests == made.memory.blocks // 57
    assert {d.context for d in made.decode} == {1650}


def test_a_float16_model_stays_float16(tmp_path: Path) -> None:
    """A float16 checkpoint becomes a float16 engine."""
    made = plan(write(tmp_path, {**LLAMA, "torch_dtype": "float16"}), "a100-80")

    assert (made.form.name, made.dtype) == ("fp16", "float16")


def test_the_plan_has_the_formats_of_a_quantised_checkpoint(tmp_path: Path) -> None:
    """This holds even on a GPU for which another format is recommended."""
    directory = write(tmp_path, LLAMA, hf_quant_config=modelopt("NVFP4", "FP8"))
    made = plan(directory, "b200")

    assert (made.form.name, made.kv_cache, made.recommended, made.quantizes) == ("nvfp4", "fp8", "fp8", False)
    assert warnings(made)[-1] == "the checkpoint is nvfp4; recommended for this GPU is fp8"
    assert plan(directory, "b200", "nvfp4", "fp8") == made


def test_nvfp4_has_a_warning_that_it_is_unmeasured() -> None:
    """A user of 1.2.1 reported wrong answers."""
    assert "none of 50 right" in warnings(plan(EIGHT_B, "b200", "nvfp4"))[0]
    assert not any("NVFP4" in warning for warning in warnings(plan(EIGHT_B, "b200")))


def test_a_model_too_large_for_fp8_on_a_gpu_without_int4_is_recommended_nvfp4() -> None:
    """The builder refuses INT4 there."""
    large = replace(seventy_b(), layers=200)

    assert plan(large, "b200", max_batch_size=16).recommended == "nvfp4"


# Every error.


@pytest.mark.parametrize("gpu", ["a100-80", "a10", "a40"])
@pytest.mark.parametrize("form", ["fp8", "fp8-rowwise"])
def test_fp8_needs_sm_89(gpu: str, form: str) -> None:
    refused = refusal(EIGHT_B, gpu, quantization=form)

    assert (refused.field, refused.found) == ("quantization", form)
    assert "FP8 needs SM 89 or newer" in refused.reason


@pytest.mark.parametrize("gpu", ["a100-80", "l4", "h100"])
def test_nvfp4_needs_sm_100(gpu: str) -> None:
    assert "NVFP4 needs SM 100 or newer" in refusal(EIGHT_B, gpu, quantization="nvfp4").reason


@pytest.mark.parametrize("gpu", ["b200", "gb200", "b300"])
@pytest.mark.parametrize("form", ["int4-awq", "int4-wo", "int8-wo", "int8-sq"])
def test_int4_and_int8_are_blocked_on_sm_100(gpu: str, form: str) -> None:
    assert (
        "the builder refuses INT8 and INT4 on SM 100 to 119"
        in refusal(EIGHT_B, gpu, quantization=form).reason
    )


def test_fp8_rowwise_is_blocked_on_sm_100() -> None:
    refused = refusal(EIGHT_B, "b200", quantization="fp8-rowwise")

    assert "B200 SXM (SM 100): the builder refuses FP8 rowwise" in refused.reason


def test_int8_kv_is_blocked_on_sm_100() -> None:
    refused = refusal(EIGHT_B, "b200", quantization="bf16", kv_cache="int8", paged_context=False)

    assert (refused.field, refused.found) == ("kv_cache", "int8")
    assert "SM 100 to 119" in refused.reason


def test_w4a8_needs_sm_89() -> None:
    assert "SM 89" in refusal(EIGHT_B, "a100-80", quantization="w4a8-awq").reason


def test_an_int8_kv_cache_excludes_paged_context() -> None:
    refused = refusal(EIGHT_B, "a10", kv_cache="int8")

    assert refused.field == "kv_cache"
    assert "paged-context attention off with an INT8 KV cache" in refused.reason
    made = plan(EIGHT_B, "a10", "int8-wo", "int8", paged_context=False)
    assert made.memory.kv_bytes_per_token == 65_536


@pytest.mark.parametrize(("gpu", "form"), [("a10", "int4-awq"), ("a10", "int8-sq"), ("l4", "fp8")])
def test_an_int8_kv_cache_that_quantizing_loses_is_refused(gpu: str, form: str) -> None:
    """modelopt 0.37 ignores the option of quantize.py; convert_checkpoint can do it."""
    refused = refusal(EIGHT_B, gpu, quantization=form, kv_cache="int8", paged_context=False)

    assert (refused.field, refused.found) == ("kv_cache", "int8")
    assert f"loses it with {form} weights" in refused.reason
    assert "bf16, fp16, int4-wo, int8-wo" in refused.reason


def test_a_checkpoint_that_no_tool_reads_is_refused(tmp_path: Path) -> None:
    """1.2.1 does not load modelopt's settings from config.json, only from their own file."""
    inside = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
    refused = refusal(write(tmp_path / "a", {**LLAMA, **inside}), "h100")

    assert (refused.field, refused.found) == ("config.json: quantization_config.quant_method", "modelopt FP8")
    assert "hf_quant_config.json" in refused.reason
    beside = write(tmp_path / "b", {**LLAMA, **inside}, hf_quant_config=modelopt("FP8"))
    assert plan(beside, "h100").form.name == "fp8"


@pytest.mark.parametrize(("gpu", "form"), [("a10", "int4-awq"), ("h100", "bf16"), ("h100", "fp8-rowwise")])
def test_an_fp8_kv_cache_without_fp8_attention_excludes_paged_context(gpu: str, form: str) -> None:
    assert "paged-context" in refusal(EIGHT_B, gpu, quantization=form, kv_cache="fp8").reason
    assert plan(EIGHT_B, gpu, form, "fp8", paged_context=False).kv_cache == "fp8"


@pytest.mark.parametrize("tp", [3, 5, 6, 7, 16])
def test_tp_divides_the_kv_heads(tp: int) -> None:
    refused = refusal(EIGHT_B, "h100", tp=tp)

    assert (refused.field, refused.found) == ("tp", tp)
    assert refused.reason == "does not divide the 8 KV heads; take one of 1, 2, 4, 8"


@pytest.mark.parametrize("tp", [0, -1])
def test_tp_is_at_least_one(tp: int) -> None:
    assert refusal(EIGHT_B, "h100", tp=tp).field == "tp"


def test_tp_divides_the_matrices() -> None:
    assert "heads 6" in refusal(replace(LLAMA_3_1_8B, heads=6), "h100", tp=4).reason
    odd = replace(LLAMA_3_1_8B, intermediate_size=14_335)
    assert "intermediate size 14335" in refusal(odd, "h100", tp=2).reason


def test_an_engine_stays_on_one_machine() -> None:
    many = replace(LLAMA_3_1_8B, kv_heads=32)

    assert "one machine of up to 8 GPUs" in refusal(many, "h100", tp=16).reason


def test_a_converted_checkpoint_is_for_its_number_of_gpus(tmp_path: Path) -> None:
    split = write(tmp_path, {**CONVERTED, "mapping": {"world_size": 2, "tp_size": 2}})

    assert "converted for 2" in refusal(split, "h100").reason
    assert plan(split, "h100", tp=2).tp == 2


def test_a_converted_checkpoint_keeps_its_formats(tmp_path: Path) -> None:
    quantised = write(tmp_path / "a", CONVERTED)
    plain = write(tmp_path / "b", {**CONVERTED, "quantization": {}})

    assert refusal(quantised, "h100", quantization="bf16").field == "quantization"
    assert refusal(quantised, "h100", kv_cache="bf16").field == "kv_cache"
    assert refusal(plain, "h100", quantization="fp8").field == "quantization"
    assert plan(plain, "h100").form.name == "bf16"


def test_a_quantised_checkpoint_is_not_quantised_again(tmp_path: Path) -> None:
    directory = write(tmp_path, LLAMA, hf_quant_config=modelopt("FP8"))

    assert "fp8 already (modelopt FP8)" in refusal(directory, "b200", quantization="nvfp4").reason
    assert "made for bf16" in refusal(directory, "h100", kv_cache="fp8").reason


def test_a_quantised_checkpoint_on_an_unsupported_gpu_is_refused(tmp_path: Path) -> None:
    directory = write(tmp_path, LLAMA, hf_quant_config=modelopt("NVFP4", "FP8"))

    assert "NVFP4 needs SM 100" in refusal(directory, "h100").reason


def test_quantising_to_gptq_is_refused() -> None:
    assert "no GPTQ" in refusal(EIGHT_B, "a10", quantization="int4-gptq").reason


def test_weights_must_fit_into_memory() -> None:
    refused = refusal(seventy_b(), "h100", quantization="bf16")

    assert (refused.field, refused.found) == ("gpu", "h100")
    assert "weights take 131.42 GiB of the 79.10 GiB of one H100 SXM" in refused.reason
    assert "tp 2" in refused.reason


def test_memory_must_be_left_for_the_kv_cache() -> None:
    """The weights fit, but not together with the workspace of such a large batch."""
    refused = refusal(EIGHT_B, "a10", quantization="bf16", max_batch_size=4096)

    assert (refused.field, refused.found) == ("max_batch_size", 4096)
    assert "leaves no KV cache: weights 14.96 GiB and workspace" in refused.reason


def test_one_request_of_full_length_must_fit() -> None:
    refused = refusal(EIGHT_B, "l4", quantization="bf16", max_seq_len=131_072)

    assert (refused.field, refused.found) == ("max_seq_len", 131_072)
    longest = int(refused.reason.split("holds ")[1].split()[0])
    assert plan(EIGHT_B, "l4", "bf16", max_seq_len=longest - 256).memory.tokens < 131_072


def test_requests_must_not_exceed_the_model_s_length() -> None:
    refused = refusal(EIGHT_B, "h200", max_seq_len=131_073)

    assert refused.reason == "is more than the model's max_position_embeddings, 131072"


def test_a_step_must_hold_a_token_of_every_request() -> None:
    assert refusal(EIGHT_B, "h200", max_batch_size=512, max_num_tokens=511).field == "max_batch_size"


@pytest.mark.parametrize("field", ["max_batch_size", "max_seq_len", "max_num_tokens"])
def test_limits_are_at_least_one(field: str) -> None:
    assert refusal(EIGHT_B, "h200", **{field: 0}).field == field


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01])
def test_the_memory_fraction_is_between_0_and_1(fraction: float) -> None:
    assert refusal(EIGHT_B, "h200", memory_fraction=fraction).field == "memory_fraction"


@pytest.mark.parametrize("shape", [(0, 1), (1, 0), (8000, 193)])
def test_impossible_lengths_are_refused(shape: tuple[int, int]) -> None:
    assert refusal(EIGHT_B, "h200", lengths=[shape]).field == "lengths"


def test_unknown_names_are_refused() -> None:
    assert refusal(EIGHT_B, "h101").field == "gpu"
    assert refusal(EIGHT_B, "h100", quantization="fp7").field == "quantization"
    assert refusal(EIGHT_B, "h100", kv_cache="fp7").field == "kv_cache"
    assert refusal("llama-9", "h100").field == "model"


# Plans with warnings.


@pytest.mark.parametrize(
    ("gpu", "form", "kv_cache"),
    [
        ("rtx5090", "nvfp4", "fp8"),
        ("rtx-pro-6000", "fp8", "fp8"),
        ("rtx-pro-6000", "int4-awq", "bf16"),
        ("l40s", "fp8-rowwise", "bf16"),
        ("b200", "w4a8-awq", "fp8"),
    ],
)
def test_an_unverified_format_is_planned_with_a_warning(gpu: str, form: str, kv_cache: str) -> None:
    """Every format of unknown support is planned with such a warning."""
    made = plan(EIGHT_B, gpu, form, kv_cache)

    assert warnings(made)[0].startswith(f"unverified: {form} weights on SM {made.gpu.sm}: ")


def test_an_unverified_kv_cache_has_a_warning() -> None:
    made = plan(EIGHT_B, "rtx-pro-6000", "bf16", "int8", paged_context=False)

    assert [w for w in warnings(made) if w.startswith("unverified: int8 KV cache on SM 120")]


def test_a_plan_has_the_expected_speed() -> None:
    """40 to 65 % of the ceiling, as published runs reach: H100 in FP8 made 28,312, 15,220, 9,305, 3,459."""
    published = {(128, 128): 28_312, (1000, 1000): 15_220, (2048, 2048): 9_305, (5000, 500): 3_459}

    for capacity in plan(EIGHT_B, "h100", lengths=list(published)).capacity:
        low, high = capacity.expected_tokens_per_second
        assert low == pytest.approx(0.40 * capacity.output_tokens_per_second)
        assert high == pytest.approx(0.65 * capacity.output_tokens_per_second)
        measured = published[capacity.prompt_tokens, capacity.output_tokens]
        assert low * 0.99 < measured < high * 1.01
        assert capacity.gpus_for_target is None


@pytest.mark.parametrize("tp", [1, 2])
def test_a_plan_has_the_gpus_for_a_target(tp: int) -> None:
    """It counts whole engines with their GPUs, from the fewest for fast ones to the most for slow ones."""
    made = plan(EIGHT_B, "h100", tp=tp, lengths=[(1000, 1000)], target_tokens_per_second=100_000)
    [capacity] = made.capacity
    assert capacity.gpus_for_target is not None
    low, high = capacity.expected_tokens_per_second
    fewest, most = capacity.gpus_for_target

    assert fewest % tp == most % tp == 0
    assert (fewest // tp - 1) * high < 100_000 <= fewest // tp * high
    assert (most // tp - 1) * low < 100_000 <= most // tp * low
    assert refusal(EIGHT_B, "h100", target_tokens_per_second=0).field == "target_tokens_per_second"


def test_surprising_choices_have_warnings() -> None:
    """Two GPUs, one matrix, unchunked prompts, calibration on the CPU."""
    assert "load balancer" in warnings(plan(EIGHT_B, "h100", tp=2))[-1]
    assert "counted with two" in warnings(plan(replace(LLAMA_3_1_8B, tied_embeddings=True), "l4"))[-1]
    unchunked = plan(EIGHT_B, "h100", paged_context=False, max_num_tokens=4096)
    assert "none may be longer than max_num_tokens, 4096" in warnings(unchunked)[-1]
    assert "on the CPU" in warnings(plan(seventy_b(), "h100", max_batch_size=64))[-1]


def attempt(*arguments: Any, **more: Any) -> Plan | str:
    """Make a plan. Return it, or the reason of the error."""
    try:
        return plan(*arguments, **more)
    except PlanRefused as refused:
        return refused.reason


@pytest.mark.parametrize("gpu", ["a100-80", "a10", "l4", "h100", "b200", "rtx-pro-6000"])
@pytest.mark.parametrize("paged_context", [True, False])
def test_every_combination_is_planned_or_refused(gpu: str, paged_context: bool) -> None:
    """No combination of formats and numbers of GPUs causes another exception."""
    results = [
        attempt(EIGHT_B, gpu, form, kv_cache, tp, paged_context=paged_context)
        for form, kv_cache, tp in product(FORMATS, KV_BYTES, (1, 2, 8))
    ]

    assert all(results)
    assert sum(isinstance(result, Plan) for result in results) >= 6
