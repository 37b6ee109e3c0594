"""Engine directories for the double of TensorRT-LLM, and the double itself."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.double.tensorrt_llm.builder import LLAMA_3_1_8B, BuildConfig, QuantConfig, build_engine

DOUBLE = Path(__file__).parent.parent / "double"
"""To be put on the import path."""

LIMITS: Mapping[str, int] = {"max_batch_size": 16, "max_num_tokens": 8192, "max_seq_len": 8192}


@contextmanager
def double_on_path() -> Iterator[Any]:
    """The double as `tensorrt_llm`, for as long as the context lasts."""
    sys.path.insert(0, str(DOUBLE))
    try:
        yield import_module("tensorrt_llm")
    finally:
        sys.path.remove(str(DOUBLE))
        for name in [n for n in sys.modules if n.partition(".")[0] == "tensorrt_llm"]:
            del sys.modules[name]


def make_engine(
    directory: Path,
    tokenizer_files: Path,
    *,
    script: Mapping[str, Any] | None = None,
    paged_context_fmha: bool = True,
    tp_size: int = 1,
    **limits: int,
) -> Path:
    """Build an engine of Llama-3.1-8B's shape, with its tokenizer beside it.

    Args:
        directory: where; the model is served under its name.
        tokenizer_files: a directory whose files are linked into it.
        script: what the double's engine does, see its `script.py`.
        limits: fields of BuildConfig, instead of those in LIMITS.

    """
    build = BuildConfig.model_validate({**LIMITS, **limits})
    build.plugin_config.use_paged_context_fmha = paged_context_fmha
    build_engine(
        directory, dict(LLAMA_3_1_8B), build, QuantConfig(), tp_size=tp_size, script=dict(script or {})
    )
    for file in tokenizer_files.iterdir():
        (directory / file.name).hardlink_to(file)
    return directory


def sampling_params_without(params: Any, *names: str) -> type:
    """A dataclass like SamplingParams, less some fields."""
    kept = [
        (field.name, Any, dataclasses.field(default=field.default))
        for field in dataclasses.fields(params)
        if field.init and field.name not in names
    ]
    return dataclasses.make_dataclass("SamplingParams", kept, kw_only=True)
