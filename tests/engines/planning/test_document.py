"""The JSON document of a plan: its stable structure, and reading it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.errors import PlanRefused
from engines.planning.document import from_json, to_document, to_json
from engines.planning.plan import Plan, plan
from tests.engines.checkpoints import CONVERTED, LLAMA, modelopt, write

EIGHT_B = "llama-3.1-8b"

SHAPE: dict[str, Any] = {
    "schema": "lodestream.engine-plan",
    "version": 1,
    "request": "gpu kv_cache max_batch_size max_num_tokens max_seq_len memory_fraction paged_context "
    "quantization target_tokens_per_second tp",
    "model": "architecture attention_bias dtype head_size heads hidden_size intermediate_size kv_heads "
    "layers max_position_embeddings mlp_bias name parameters path quantization source tied_embeddings "
    "tp_size vocab_size",
    "gpu": "bandwidth marketed_gb name peaks sm source title usable_bytes",
    "weights": "algo arithmetic bits group name recommended scale_bytes",
    "memory": "block_bytes block_tokens blocks kv_bytes_per_token kv_pool left tokens total weights "
    "workspace",
    "capacity": [
        (
            "expected_tokens_per_second first_token_seconds gpus_for_target limited_by output_tokens "
            "output_tokens_per_second prompt_tokens requests"
        )
    ],
    "decode": ["batch context limited_by tokens_per_second"],
    "warnings": [],
    "routes": ["commands name obstacle program"],
}


def shape(value: Any) -> Any:
    """The structure of a document without values: names of objects, and the shape of a list's first item."""
    if isinstance(value, dict):
        return " ".join(sorted(value))
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return value


def some_plans(directory: Path) -> list[Plan]:
    quantised = write(directory / "a", LLAMA, hf_quant_config=modelopt("FP8", "FP8"))
    return [
        *(plan(EIGHT_B, gpu) for gpu in ("h200", "l4", "a10", "b200")),
        plan(EIGHT_B, "h100", "bf16", tp=4, max_batch_size=7, max_seq_len=100, max_num_tokens=4000),
        plan(EIGHT_B, "a10", "int8-wo", "int8", paged_context=False, memory_fraction=0.55),
        plan(EIGHT_B, "l4", lengths=[(1500, 300)]),
        plan(quantised, "b200"),
        plan(write(directory / "b", CONVERTED), "h100"),
    ]


def test_the_structure_of_the_document_is_stable() -> None:
    """A change of a name needs a new version."""
    document = json.loads(to_json(plan(EIGHT_B, "h200")))

    assert {name: shape(value) for name, value in document.items()} == SHAPE


def test_a_plan_is_unchanged_after_json(tmp_path: Path) -> None:
    """The plan and its text are equal, and the checkpoint is not read."""
    for made in some_plans(tmp_path):
        text = to_json(made)
        for file in tmp_path.rglob("*.json"):
            file.write_text("gone")

        assert from_json(text) == made
        assert to_json(from_json(text)) == text
        for directory, config in (("a", LLAMA), ("b", CONVERTED)):
            write(tmp_path / directory, config)
        write(tmp_path / "a", LLAMA, hf_quant_config=modelopt("FP8", "FP8"))


def test_figures_are_exact() -> None:
    """They are in bytes, not gigabytes."""
    document = to_document(plan(EIGHT_B, "h200"))

    assert document["model"]["parameters"] == 8_030_261_248
    assert document["memory"]["weights"] == 9_081_200_640
    assert document["memory"]["kv_bytes_per_token"] == 65_536
    assert document["memory"]["block_bytes"] == 2 * 1024**2
    assert document["gpu"]["peaks"]["fp4"] is None


def test_commands_are_lists_of_words() -> None:
    """They can be passed to a subprocess; the program is text."""
    first, second = to_document(plan(EIGHT_B, "h200"))["routes"]

    assert [c["stage"] for c in first["commands"]] == ["quantize", "build"]
    assert first["commands"][1]["argv"][0] == "trtllm-build"
    assert second["program"].startswith('"""Builds a TensorRT-LLM 1.2.1 engine')


@pytest.mark.parametrize("change", [{"schema": "other"}, {"version": 2}])
def test_another_document_is_refused(change: dict[str, Any]) -> None:
    """Schema and version are checked."""
    document = {**to_document(plan(EIGHT_B, "h200")), **change}

    with pytest.raises(ValueError, match=r"no lodestream\.engine-plan of version 1"):
        from_json(json.dumps(document))
    with pytest.raises(ValueError, match="no lodestream"):
        from_json("[]")


def test_an_invalid_plan_in_a_document_is_refused() -> None:
    """An edited document is checked like the options of a command."""
    document = to_document(plan(EIGHT_B, "h200"))
    document["request"]["tp"] = 3

    with pytest.raises(PlanRefused, match="KV heads"):
        from_json(json.dumps(document))
