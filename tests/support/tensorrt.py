"""Creates engine directories for the double of TensorRT-LLM, and puts the double on the import path."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.double.tensorrt_llm.builder import LLAMA_3_1_8B, BuildConfig, QuantConfig, build_engine

DOUBLE = Path(__file__).parent.parent / "double"
"""The directory for the import path."""
DOUBLED = frozenset({"tensorrt_llm", "torch", "transformers", "xgrammar"})
"""The modules in this directory."""

LIMITS: Mapping[str, int] = {"max_batch_size": 16, "max_num_tokens": 8192, "max_seq_len": 8192}


_PLAIN = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
SMALL: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {"id": 300, "content": "<s>", "special": True, **_PLAIN},
        {"id": 301, "content": "<|eot_id|>", "special": True, **_PLAIN},
        {"id": 302, "content": "<|end_of_text|>", "special": True, **_PLAIN},
        {"id": 303, "content": "[tag]", "special": False, **_PLAIN},
    ],
    "normalizer": None,
    "pre_tokenizer": {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    },
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "<s>": 300}, "merges": ["a b"]},
}
"""A byte-level tokenizer of five tokens, one of which is also a special token."""
SMALL_SIZE = 304


@contextmanager
def double_on_path() -> Iterator[Any]:
    """Make the double importable as `tensorrt_llm` until the context ends."""
    sys.path.insert(0, str(DOUBLE))
    try:
        yield import_module("tensorrt_llm")
    finally:
        sys.path.remove(str(DOUBLE))
        for name in [n for n in sys.modules if n.partition(".")[0] in DOUBLED]:
            del sys.modules[name]


def make_engine(
    directory: Path,
    tokenizer_files: Path,
    *,
    script: Mapping[str, Any] | None = None,
    paged_context_fmha: bool = True,
    tp_size: int = 1,
    vocab_size: int = 128256,
    **limits: int,
) -> Path:
    """Build an engine of Llama-3.1-8B's shape, with its tokenizer beside it.

    Args:
        directory: where; the model is served under its name.
        tokenizer_files: a directory whose files are linked into it.
        script: what the double's engine does, see its `script.py`.
        vocab_size: of the engine, where the tokenizer is not Llama 3.1's.
        limits: fields of BuildConfig, instead of those in LIMITS.

    """
    build = BuildConfig.model_validate({**LIMITS, **limits})
    build.plugin_config.use_paged_context_fmha = paged_context_fmha
    model = {**LLAMA_3_1_8B, "vocab_size": vocab_size}
    build_engine(directory, model, build, QuantConfig(), tp_size=tp_size, script=dict(script or {}))
    for file in tokenizer_files.iterdir():
        (directory / file.name).hardlink_to(file)
    return directory


def write_small_tokenizer(directory: Path) -> None:
    """Write the files of a tokenizer that loads in no time; engines beside it have `SMALL_SIZE` tokens."""
    documents = {
        "tokenizer": SMALL,
        "tokenizer_config": {"bos_token": "<s>", "eos_token": "<|eot_id|>"},
        "generation_config": {"eos_token_id": [301, 302]},
    }
    for stem, document in documents.items():
        (directory / f"{stem}.json").write_text(json.dumps(document))


def with_slow_tokenizer(engine: Path) -> Path:
    """Change an engine's tokenizer so that transformers does not load it as a fast one."""
    file = engine / "tokenizer_config.json"
    settings = {**json.loads(file.read_text()), "tokenizer_class": "SlowTokenizer"}
    # The file may be a link to one that other engines share.
    file.unlink()
    file.write_text(json.dumps(settings))
    return engine


def sampling_params_without(params: Any, *names: str) -> type:
    """A copy of the dataclass SamplingParams, or of another one, without some fields."""
    kept = [
        (field.name, Any, dataclasses.field(default=field.default, init=field.init))
        for field in dataclasses.fields(params)
        if field.name not in names
    ]
    return dataclasses.make_dataclass("SamplingParams", kept, kw_only=True)
