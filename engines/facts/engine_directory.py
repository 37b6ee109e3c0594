"""Reads an engine directory: TensorRT-LLM's config.json, and the files beside it.

The sections of the configuration have TensorRT-LLM's own field names, so that a name in a finding is a name
in the file. Limits and features are those of the **finished** build, which the builder may have changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engines.errors import (
    NOTHING,
    Count,
    Document,
    DocumentError,
    Finding,
    Flag,
    OptionalText,
    Positive,
    Sha256,
    Text,
    findings_of,
    shown,
)

CONFIG_FILE = "config.json"
MANIFEST_FILE = "manifest.json"

_CHUNK_BYTES = 4 * 1024**2
_LARGE_FILE = re.compile(r"rank\d+(\.engine|_managed_weights\.safetensors)")
_PLAN_FILE = re.compile(r"rank(\d+)\.engine")


class Shape(Document):
    """Sizes of the model; `pretrained_config`."""

    architecture: Text
    dtype: Text
    vocab_size: Positive
    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    head_size: Positive
    intermediate_size: Positive
    max_position_embeddings: Positive


class Split(Document):
    """Over how many GPUs the engine is split; `pretrained_config.mapping`."""

    world_size: Positive
    tp_size: Positive
    pp_size: Positive
    cp_size: Positive


class Quantization(Document):
    """`pretrained_config.quantization`."""

    quant_algo: OptionalText
    kv_cache_quant_algo: OptionalText


class BuildLimits(Document):
    """`build_config`."""

    max_batch_size: Positive
    max_num_tokens: Positive
    max_seq_len: Positive
    max_input_len: Positive
    max_beam_width: Positive
    kv_cache_type: Text
    gather_context_logits: Flag
    gather_generation_logits: Flag


class Plugins(Document):
    """`build_config.plugin_config`."""

    use_paged_context_fmha: Flag
    tokens_per_block: Positive
    use_fp8_context_fmha: Flag
    context_fmha: Flag
    remove_input_padding: Flag
    streamingllm: Flag
    manage_weights: Flag


class EngineConfig(Document):
    """The parts of config.json that this project depends on."""

    version: Text
    """Of the TensorRT-LLM that built it."""
    shape: Shape
    split: Split
    quantization: Quantization
    limits: BuildLimits
    plugins: Plugins
    logits_dtype: Text = "float32"
    """`pretrained_config.logits_dtype`; `float16` after quantize.py, unless the build sets it."""


_SECTIONS: dict[str, tuple[type[Document], dict[str, object]]] = {
    "pretrained_config": (Shape, {}),
    "pretrained_config.mapping": (Split, {"tp_size": 1, "pp_size": 1, "cp_size": 1}),
    "pretrained_config.quantization": (Quantization, {}),
    "build_config": (
        BuildLimits,
        {
            "max_input_len": 1024,
            "max_beam_width": 1,
            "kv_cache_type": "PAGED",
            "gather_context_logits": False,
            "gather_generation_logits": False,
        },
    ),
    "build_config.plugin_config": (
        Plugins,
        {
            "use_fp8_context_fmha": False,
            "context_fmha": True,
            "remove_input_padding": True,
            "streamingllm": False,
            "manage_weights": False,
        },
    ),
}
"""Place in config.json → its model, and the values of names that are missing or null."""


class UnreadableConfigError(DocumentError):
    """Expected: there is no config.json of an engine here."""

    headline = f"{CONFIG_FILE} is not that of an engine"


def read_engine_config(directory: Path) -> EngineConfig:
    """Read an engine directory's config.json.

    Raises:
        UnreadableConfigError: it is missing, damaged, of something else, or incomplete; lists every place.

    """
    document = _read_config(directory / CONFIG_FILE)
    findings: list[Finding] = []
    if not isinstance(document.get("version"), str):
        findings.append(
            Finding("version", shown(document.get("version")), "the TensorRT-LLM version, a string")
        )
    names = ("shape", "split", "quantization", "limits", "plugins")
    sections: dict[str, Any] = {
        name: _read_section(document, where, findings) for name, where in zip(names, _SECTIONS, strict=True)
    }
    if findings:
        raise UnreadableConfigError(findings)
    logits_dtype = document["pretrained_config"].get("logits_dtype") or "float32"
    return EngineConfig(version=document["version"], logits_dtype=str(logits_dtype), **sections)


def _read_section(document: Mapping[str, Any], where: str, findings: list[Finding]) -> Document | None:
    model, defaults = _SECTIONS[where]
    values: Any = document
    for name in where.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    if not isinstance(values, dict):
        findings.append(Finding(where, shown(values), "a JSON object"))
        return None
    known = {name: values.get(name) for name in model.model_fields}
    present = {name: value for name, value in known.items() if value is not None}
    try:
        return model.model_validate({**known, **defaults, **present})
    except ValidationError as error:
        findings.extend(findings_of(error, f"{where}."))
        return None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _unreadable(NOTHING, "the config.json of an engine") from None
    except OSError as error:
        raise _unreadable(f"a file that cannot be read ({error.strerror})", "the engine's") from None
    except (ValueError, RecursionError) as error:
        raise _unreadable(f"no valid JSON ({shown(str(error))})", "a JSON object, complete") from None
    if not isinstance(document, dict) or not {"pretrained_config", "build_config"} <= document.keys():
        raise _unreadable(_kind(document), "that of a built engine")
    return document


def _unreadable(found: str, expected: str) -> UnreadableConfigError:
    return UnreadableConfigError([Finding(CONFIG_FILE, found, expected)])


def _kind(document: object) -> str:
    """Whose config.json it is, by the rule of TensorRT-LLM."""
    if not isinstance(document, dict):
        return "no JSON object"
    if {"architecture", "dtype"} <= document.keys():
        return "that of a TensorRT-LLM checkpoint"
    return "that of a Hugging Face model" if "architectures" in document else "that of something else"


class FileFacts(Document):
    """Size and content of a file."""

    size: Count
    """Bytes."""
    sha256: Sha256


def engine_files(directory: Path) -> tuple[str, ...]:
    """List every file below, by its path from there with `/`, sorted; no manifest, no hidden files."""
    found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    names = (path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
    return tuple(sorted(name for name in names if name != MANIFEST_FILE))


def ranks(directory: Path) -> tuple[int, ...]:
    """The ranks that have a file, in order."""
    matches = (_PLAN_FILE.fullmatch(path.name) for path in directory.iterdir())
    return tuple(sorted(int(match.group(1)) for match in matches if match))


def is_large(name: str) -> bool:
    """Whether it is a file of gigabytes: a plan, or weights beside it."""
    return _LARGE_FILE.fullmatch(name) is not None


def sha256_of(path: Path) -> str:
    """Hash a file of any size.

    Raises:
        OSError: it cannot be read.

    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def facts_of(path: Path) -> FileFacts:
    """Measure and hash a file.

    Raises:
        OSError: it cannot be read.

    """
    return FileFacts(size=path.stat().st_size, sha256=sha256_of(path))
