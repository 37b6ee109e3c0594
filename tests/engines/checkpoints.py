"""Writes checkpoint directories as they are published, without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
"""The config.json of Llama-3.1-8B on the hub."""

CONVERTED = {
    "architecture": "LlamaForCausalLM",
    "dtype": "bfloat16",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_size": 128,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1, "cp_size": 1},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
}
"""The config.json of TensorRT-LLM's own checkpoint of it, in FP8."""


def write(directory: Path, config: dict[str, Any], **files: dict[str, Any]) -> Path:
    """Write config.json, and other JSON files by their stems. Return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for stem, document in {"config": config, **files}.items():
        (directory / f"{stem}.json").write_text(json.dumps(document))
    return directory


def modelopt(algo: str, kv_cache: str | None = None, **more: Any) -> dict[str, Any]:
    """The hf_quant_config.json that ModelOpt writes."""
    quantization = {
        "quant_algo": algo,
        "kv_cache_quant_algo": kv_cache,
        "exclude_modules": ["lm_head"],
        **more,
    }
    return {"producer": {"name": "modelopt"}, "quantization": quantization}
