"""Llama 3.1's vocabulary as an engine directory has it: the tokenizer files of a Hugging Face checkpoint.

The 128,000 ranks are Meta's own, from the package `llama-models`; the special tokens and the shape of
a conversation are facts of the model, written down here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference_service.config import cache_home
from inference_service.models.catalog import CatalogModel, WheelMember, WheelParts
from inference_service.models.download import cached_model
from inference_service.models.files import Progress

BEGIN_OF_TEXT, END_OF_TEXT = 128000, 128001
START_HEADER, END_HEADER = 128006, 128007
END_OF_MESSAGE, END_OF_TURN = 128008, 128009
END_IDS = frozenset({END_OF_TEXT, END_OF_MESSAGE, END_OF_TURN})
VOCABULARY_SIZE = 128256

_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
"""Special tokens by their offset from the first one; the others are reserved."""

_RANKS = CatalogModel(
    id="llama-3.1-vocabulary",
    title="the vocabulary of Llama 3.1",
    licence="Llama 3.1 Community License",
    file_name="llama-3.1.tiktoken",
    size=2_183_982,
    sha256="82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
    sources=(
        WheelParts((WheelMember("llama-models==0.3.0", "llama_models/llama3/tokenizer.model", 2_183_982),)),
    ),
)

_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The regular expression that splits text into words."""

TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
{{- message['content'] | trim -}}
{{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""
"""A chat template in the format of the model's training, without tools and dates."""


def read_ranks() -> dict[bytes, int]:
    """The bytes of every ordinary token with its id. The file is downloaded once into the cache."""
    path = cached_model(_RANKS, cache_home(), Progress(shown=True))
    pairs = (line.split() for line in path.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def special_tokens() -> dict[str, int]:
    """All 256 special tokens with their ids."""
    reserved = iter(range(256))
    return {
        _NAMED.get(offset) or f"<|reserved_special_token_{next(reserved)}|>": BEGIN_OF_TEXT + offset
        for offset in range(256)
    }


def write_tokenizer(directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, generation_config.json and the chat template."""
    write_json(directory / "tokenizer.json", tokenizer_json(read_ranks()))
    config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    write_json(directory / "tokenizer_config.json", config)
    write_json(directory / "generation_config.json", {"eos_token_id": sorted(END_IDS)})
    (directory / "chat_template.jinja").write_text(TEMPLATE)


def tokenizer_json(ranks: Mapping[bytes, int]) -> dict[str, Any]:
    """The document of a fast tokenizer that yields the same ids as the ranks."""
    begin = {"id": "<|begin_of_text|>", "ids": [BEGIN_OF_TEXT], "tokens": ["<|begin_of_text|>"]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(text, index) for text, index in special_tokens().items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": _CUT}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|begin_of_text|>": begin},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {_written(token): rank for token, rank in ranks.items()},
            "merges": _merges(ranks),
        },
    }


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))


def _added_token(text: str, index: int) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": text, **plain, "special": True}


def _merges(ranks: Mapping[bytes, int]) -> list[list[str]]:
    """Every pair of tokens that joins to a token, ordered by the rank of the result."""
    pairs = []
    for token, rank in ranks.items():
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        halves = sorted(
            (ranks[left], ranks[right], left, right)
            for left, right in cuts
            if left in ranks and right in ranks
        )
        pairs += [(rank, position, left, right) for position, (*_, left, right) in enumerate(halves)]
    pairs.sort(key=lambda pair: pair[:2])
    return [[_written(left), _written(right)] for _, _, left, right in pairs]


def _alphabet() -> dict[int, str]:
    """The printable characters that represent bytes: visible Latin-1 characters stay, others are shifted."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(0x100) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {b: chr(0x100 + n) for n, b in enumerate(hidden)}


_ALPHABET = _alphabet()


def _written(token: bytes) -> str:
    return "".join(_ALPHABET[byte] for byte in token)
