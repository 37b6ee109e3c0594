"""A checkpoint like Llama 3.1's, of 1,024 tokens and two layers, with random weights.

The files are real, so that every stage of a build can read them. Only the standard library is used.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

VOCABULARY_SIZE = 1024
LAYERS = 2
HIDDEN, INTERMEDIATE = 256, 512
HEADS, KV_HEADS, HEAD_SIZE = 4, 2, 64
CONTEXT_LENGTH = 8192

_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
)
_TEMPLATE = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] -}}"
    "<|eot_id|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|start_header_id|>assistant<|end_header_id|>\n\n{%- endif -%}"
)


def write_checkpoint(directory: Path) -> Path:
    """Write all files of a checkpoint directory."""
    directory.mkdir(parents=True)
    vocabulary, pairs = _vocabulary()
    first = len(vocabulary)
    special = [*_SPECIAL, *(f"<|reserved_special_token_{n}|>" for n in range(VOCABULARY_SIZE - first - 6))]
    ids = {text: first + position for position, text in enumerate(special)}
    ends = [ids[text] for text in _SPECIAL[1:4]]
    documents = {
        "config": {**_SHAPE, "bos_token_id": ids[_SPECIAL[0]], "eos_token_id": ends},
        "generation_config": {"bos_token_id": ids[_SPECIAL[0]], "eos_token_id": ends},
        "tokenizer": _tokenizer(vocabulary, pairs, ids),
        "tokenizer_config": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "model_max_length": CONTEXT_LENGTH,
        },
    }
    for stem, document in documents.items():
        (directory / f"{stem}.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    _write_weights(directory / "model.safetensors")
    return directory


_SHAPE: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": HEAD_SIZE,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": CONTEXT_LENGTH,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCABULARY_SIZE,
}


def _vocabulary() -> tuple[dict[str, int], list[list[str]]]:
    """The 256 bytes, and every pair of lower-case letters."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = 0x100 - len(visible)
    alphabet = [*map(chr, visible), *(chr(0x100 + n) for n in range(shifted))]
    pairs = [list(pair) for pair in product(ascii_lowercase, repeat=2)]
    texts = [*alphabet, *("".join(pair) for pair in pairs)]
    return {text: index for index, text in enumerate(texts)}, pairs


def _tokenizer(vocabulary: dict[str, int], pairs: list[list[str]], special: dict[str, int]) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": text, "special": True, **plain} for text, index in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": pairs,
        },
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY_SIZE, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY_SIZE, HIDDEN),
    }
    for layer in range(LAYERS):
        inside = {
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HEADS * HEAD_SIZE, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * HEAD_SIZE),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in inside.items()}
    return shapes


def _write_weights(path: Path) -> None:
    """Write a safetensors file: length of the header, header, numbers."""
    chance = random.Random(1)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, shape in _shapes().items():
        begin = len(data)
        data += _ones(shape[0]) if len(shape) == 1 else _numbers(chance, shape[0] * shape[1])
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _ones(count: int) -> bytes:
    return b"\x80\x3f" * count


def _numbers(chance: random.Random, count: int) -> bytes:
    """Numbers of either sign between 1/64 and 1/8: a sign, eight bits of exponent, seven more."""
    drawn = chance.randbytes(2 * count)
    words = struct.unpack(f"<{count}H", drawn)
    return struct.pack(f"<{count}H", *(word & 0x80FF | 0x3C80 + (word & 0x100) for word in words))
