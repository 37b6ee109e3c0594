"""Writes small engines and checkpoints as builds do; their tokenizer has 264 tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from engines.building.record import adopt
from engines.facts.gpus import GIB
from engines.facts.machine import InstalledGpu, Runtime
from tests.double.tensorrt_llm.builder import BuildConfig, QuantConfig, build_engine
from tests.double.tensorrt_llm.configs import QuantAlgo

SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|pad|>",
)
VOCABULARY = 256 + len(SPECIALS)
STOP_IDS = [257, 260, 261]
TEMPLATE = "{%- for message in messages -%}{{ message['content'] }}<|eot_id|>{%- endfor -%}"

MODEL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "max_position_embeddings": 4096,
    "rope_theta": 500000.0,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
"""The config.json of a checkpoint with a millionth of a real model's size."""

L4 = InstalledGpu("NVIDIA L4", 89, 22 * GIB, 22 * GIB)
H100 = InstalledGpu("NVIDIA H100 80GB HBM3", 90, 79 * GIB, 79 * GIB)


def machine(*gpus: InstalledGpu, **versions: str) -> Runtime:
    """The machine of the builds below, or one with other values."""
    return Runtime(
        **{
            "tensorrt_llm": "1.2.1",
            "tensorrt": "10.14.1.48",
            "cuda": "13.1.0",
            "driver": "580.95",
            **versions,
        },
        gpus=gpus,
    )


def write_tokenizer(directory: Path) -> Path:
    """Write the tokenizer files of a Hugging Face checkpoint."""
    alphabet = sorted(ByteLevel.alphabet())
    added = [
        {"id": 256 + index, "content": text, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for index, text in enumerate(SPECIALS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {text: i for i, text in enumerate(alphabet)}, "merges": []},
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "tokenizer.json", tokenizer)
    write_json(directory / "tokenizer_config.json", {"bos_token": SPECIALS[0], "eos_token": "<|eot_id|>"})
    write_json(directory / "special_tokens_map.json", {"eos_token": "<|eot_id|>"})
    write_json(directory / "generation_config.json", {"eos_token_id": STOP_IDS})
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


def write_model(directory: Path) -> Path:
    """Write a Hugging Face checkpoint without weights."""
    write_tokenizer(directory)
    write_json(directory / "config.json", MODEL)
    return directory


def write_plain(directory: Path, *, tp_size: int = 1, kv_cache: str | None = "FP8") -> Path:
    """Write the output of `trtllm-build` alone: config.json and plans."""
    build = BuildConfig(max_batch_size=16, max_num_tokens=1024, max_seq_len=2048)
    quant = QuantConfig(
        quant_algo=QuantAlgo.FP8, kv_cache_quant_algo=QuantAlgo(kv_cache) if kv_cache else None
    )
    build_engine(directory, MODEL, build, quant, tp_size=tp_size)
    for rank in range(tp_size):
        (directory / f"rank{rank}.engine").write_bytes(bytes(range(256)) * 1024)
    return directory


def write_engine(directory: Path, *, tp_size: int = 1, gpus: tuple[InstalledGpu, ...] = (L4,)) -> Path:
    """Write an engine with tokenizer and manifest."""
    write_tokenizer(write_plain(directory, tp_size=tp_size))
    adopt(directory, model_id="tiny", runtime=machine(*gpus))
    return directory


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON document in its file."""
    document = json.loads(path.read_text())
    change(document)
    write_json(path, document)
