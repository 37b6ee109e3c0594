"""Checkpoint directories: published ones are read, errors name file and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.errors import PlanRefused
from engines.facts.models import LLAMA_3_1_8B, load_model
from tests.engines.checkpoints import CONVERTED, LLAMA, modelopt, write

MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8"}


def test_the_built_in_model_needs_no_directory() -> None:
    """Its name is accepted in any case."""
    assert load_model("llama-3.1-8b") is load_model("Llama-3.1-8B") is LLAMA_3_1_8B


def test_the_published_checkpoint_equals_the_built_in_model(tmp_path: Path) -> None:
    """All sizes are equal."""
    model = load_model(write(tmp_path / "Llama", LLAMA))

    assert model == replace(LLAMA_3_1_8B, name="Llama", source="huggingface", path=str(tmp_path / "Llama"))
    assert model.parameters == 8_030_261_248


def test_a_converted_checkpoint_equals_its_model(tmp_path: Path) -> None:
    """The checkpoint is in TensorRT-LLM's own format, with `architecture` and `dtype`."""
    model = load_model(write(tmp_path, CONVERTED))

    assert (model.source, model.tp_size, model.parameters) == ("tensorrt-llm", 1, 8_030_261_248)
    assert model.quantization is not None
    assert (model.quantization.format, model.quantization.kv_cache) == ("fp8", "fp8")


def test_missing_values_of_old_configurations_have_defaults(tmp_path: Path) -> None:
    """KV heads equal heads, the head size is hidden size / heads, and the type is bfloat16."""
    left_out = ("num_key_value_heads", "torch_dtype", "tie_word_embeddings", "attention_bias", "mlp_bias")
    model = load_model(write(tmp_path, {k: v for k, v in LLAMA.items() if k not in left_out}))

    assert (model.kv_heads, model.head_size, model.dtype) == (32, 128, "bfloat16")


def test_ties_and_biases_count(tmp_path: Path) -> None:
    """A tied matrix counts once; there is a bias for each output."""
    tied = load_model(write(tmp_path / "a", {**LLAMA, "tie_word_embeddings": True}))
    biased = load_model(write(tmp_path / "b", {**LLAMA, "attention_bias": True, "mlp_bias": True}))

    assert tied.parameters == 8_030_261_248 - 525_336_576
    assert biased.parameters == 8_030_261_248 + 32 * (4096 + 1024 + 1024 + 4096 + 2 * 14_336 + 4096)


@pytest.mark.parametrize(
    ("algo", "kv_cache", "form"),
    [
        ("FP8", "FP8", "fp8"),
        ("FP8", None, "fp8"),
        ("NVFP4", "FP8", "nvfp4"),
        ("W4A16_AWQ", None, "int4-awq"),
        ("W4A8_AWQ", "FP8", "w4a8-awq"),
        ("W8A8_SQ_PER_CHANNEL", "INT8", "int8-sq"),
        ("FP8_PER_CHANNEL_PER_TOKEN", None, "fp8-rowwise"),
    ],
)
def test_the_quantization_of_modelopt_is_read(
    tmp_path: Path, algo: str, kv_cache: str | None, form: str
) -> None:
    """It is in hf_quant_config.json or in config.json."""
    found = modelopt(algo, kv_cache)
    beside = load_model(write(tmp_path / "a", LLAMA, hf_quant_config=found))
    inside = {**LLAMA, "quantization_config": {"quant_method": "modelopt", **found["quantization"]}}

    for model in (beside, load_model(write(tmp_path / "b", inside))):
        assert model.quantization is not None
        assert model.quantization.method == f"modelopt {algo}"
        assert model.quantization.format == form
        assert model.quantization.kv_cache == (kv_cache and kv_cache.lower())
        assert model.quantization.excluded == ("lm_head",)


@pytest.mark.parametrize(
    ("config", "form"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "int4-awq"),
        ({"quant_method": "gptq", "bits": 4, "desc_act": False}, "int4-gptq"),
        ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["model.layers.0.mlp"]}, "fp8-rowwise"),
    ],
)
def test_the_quantization_of_hugging_face_is_read(tmp_path: Path, config: dict[str, Any], form: str) -> None:
    """TensorRT-LLM supports three methods."""
    model = load_model(write(tmp_path, {**LLAMA, "quantization_config": config}))

    assert model.quantization is not None
    assert (model.quantization.method, model.quantization.format) == (config["quant_method"], form)
    assert model.excluded_parameters == (3 * 4096 * 14_336 if "modules_to_not_convert" in config else 0)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "config.json: architectures"),
        ({"architectures": []}, "config.json: architectures"),
        ({"hidden_size": None}, "config.json: hidden_size"),
        ({"num_hidden_layers": 0}, "config.json: num_hidden_layers"),
        ({"vocab_size": "many"}, "config.json: vocab_size"),
        ({"num_attention_heads": True}, "config.json: num_attention_heads"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quant_method"),
        ({"quantization_config": {"quant_method": "gptq", "desc_act": True}}, "desc_act"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "bits"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED"}}, "quant_algo"),
        ({"quantization_config": MODELOPT | {"kv_cache_quant_algo": "NVFP4"}}, "kv_cache_quant_algo"),
        ({"pretrained_config": {}, "build_config": {}}, "model"),
    ],
)
def test_hugging_face_checkpoints_are_refused_by_key(
    tmp_path: Path, config: dict[str, Any], field: str
) -> None:
    """The field names file and key; the message is one line."""
    with pytest.raises(PlanRefused) as refused:
        load_model(write(tmp_path, {**LLAMA, **config}))

    assert refused.value.field.endswith(field)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"architecture": "GPTForCausalLM"}, "architecture"),
        ({"mapping": {"world_size": 4, "tp_size": 2}}, "mapping.world_size"),
        ({"mapping": {"world_size": 2, "pp_size": 2}}, "mapping"),
        ({"quantization": {"quant_algo": "W4A16_MXFP4"}}, "quantization.quant_algo"),
    ],
)
def test_converted_checkpoints_are_refused_by_key(tmp_path: Path, config: dict[str, Any], field: str) -> None:
    """Parallelism other than tensor parallelism and unsupported formats are refused."""
    with pytest.raises(PlanRefused) as refused:
        load_model(write(tmp_path, {**CONVERTED, **config}))

    assert refused.value.field == f"config.json: {field}"


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "no JSON object")])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The error has the file and the reason."""
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(PlanRefused, match=f"config.json .*{message}"):
        load_model(tmp_path)


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    """A missing directory and an empty one are refused."""
    with pytest.raises(PlanRefused, match=r"no checkpoint: it has no config\.json"):
        load_model(tmp_path)
    with pytest.raises(PlanRefused, match=r"no such directory; llama-3\.1-8b needs none"):
        load_model(tmp_path / "llama-3.1-80b")
