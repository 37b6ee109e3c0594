"""What an engine says of itself: the config.json that TensorRT-LLM writes beside its plans.

The sections are frozen; their field names are TensorRT-LLM's own, so that a name in a finding is a name in
the file. Limits and features are those of the **finished** build, which the builder may have changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from engines.errors import EngineError
from engines.finding import NOTHING, Finding, in_lines, shown

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the model; `pretrained_config`."""

    architecture: str
    dtype: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    intermediate_size: int
    max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class Split:
    """Over how many GPUs; `pretrained_config.mapping`."""

    world_size: int
    tp_size: int = 1
    pp_size: int = 1
    cp_size: int = 1


@dataclass(frozen=True, slots=True)
class Quantization:
    """`pretrained_config.quantization`."""

    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """`build_config`."""

    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    max_input_len: int = 1024
    max_beam_width: int = 1
    kv_cache_type: str = "PAGED"
    gather_context_logits: bool = False
    gather_generation_logits: bool = False


@dataclass(frozen=True, slots=True)
class Plugins:
    """`build_config.plugin_config`."""

    use_paged_context_fmha: bool
    tokens_per_block: int
    use_fp8_context_fmha: bool = False
    context_fmha: bool = True
    remove_input_padding: bool = True
    streamingllm: bool = False
    manage_weights: bool = False


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """All of it that somebody depends on."""

    version: str
    """Of the TensorRT-LLM that built it."""
    shape: Shape
    split: Split
    quantization: Quantization
    limits: BuildLimits
    plugins: Plugins
    logits_dtype: str = "float32"
    """`pretrained_config.logits_dtype`; `float16` after quantize.py, unless the build sets it."""


_Section = TypeVar("_Section", Shape, Split, Quantization, BuildLimits, Plugins)

_WHERE: dict[str, type] = {
    "pretrained_config": Shape,
    "pretrained_config.mapping": Split,
    "pretrained_config.quantization": Quantization,
    "build_config": BuildLimits,
    "build_config.plugin_config": Plugins,
}
_WANTED = {
    "int": "a whole number above 0",
    "str": "a string",
    "str | None": "a string or null",
    "bool": "true or false",
}


class UnreadableConfigError(EngineError):
    """Expected: there is no config.json of an engine here. The message is one line."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__(*in_lines(f"{CONFIG_FILE} is not that of an engine", findings))
        self.findings = findings


def read_engine_config(directory: Path) -> EngineConfig:
    """Read an engine directory's config.json.

    Raises:
        UnreadableConfigError: it is missing, damaged, of something else, or incomplete; names every place.

    """
    document = _read(directory / CONFIG_FILE)
    findings = tuple(_malformed(document))
    if findings:
        raise UnreadableConfigError(findings)
    return EngineConfig(
        version=document["version"],
        shape=_section(Shape, document, "pretrained_config"),
        split=_section(Split, document, "pretrained_config.mapping"),
        quantization=_section(Quantization, document, "pretrained_config.quantization"),
        limits=_section(BuildLimits, document, "build_config"),
        plugins=_section(Plugins, document, "build_config.plugin_config"),
        logits_dtype=str(document["pretrained_config"].get("logits_dtype") or "float32"),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _unreadable(NOTHING, "the config.json of an engine") from None
    except OSError as error:
        raise _unreadable(f"a file that cannot be read ({error.strerror})", "the engine's") from None
    except ValueError as error:
        raise _unreadable(f"no valid JSON ({shown(str(error))})", "a JSON object, complete") from None
    if not isinstance(document, dict) or not {"pretrained_config", "build_config"} <= document.keys():
        raise _unreadable(_kind(document), "that of a built engine")
    return document


def _unreadable(found: str, wanted: str) -> UnreadableConfigError:
    return UnreadableConfigError((Finding(CONFIG_FILE, found, wanted),))


def _kind(document: object) -> str:
    """Whose config.json it is, told as TensorRT-LLM tells it."""
    if not isinstance(document, dict):
        return "no JSON object"
    if {"architecture", "dtype"} <= document.keys():
        return "that of a TensorRT-LLM checkpoint"
    return "that of a Hugging Face model" if "architectures" in document else "that of something else"


def _malformed(document: Mapping[str, Any]) -> Iterator[Finding]:
    if not isinstance(document.get("version"), str):
        yield Finding("version", shown(document.get("version")), "the TensorRT-LLM version, a string")
    for where, section in _WHERE.items():
        values = _find(document, where)
        if not isinstance(values, dict):
            yield Finding(where, shown(values), "a JSON object")
            continue
        for field in fields(section):
            value = values.get(field.name)
            absent_by_right = value is None and field.default is not MISSING
            if not absent_by_right and not _fits(value, str(field.type)):
                yield Finding(f"{where}.{field.name}", shown(value), _WANTED[str(field.type)])


def _fits(value: object, kind: str) -> bool:
    if kind == "int":
        return type(value) is int and value > 0
    return isinstance(value, bool if kind == "bool" else str)


def _section(section: type[_Section], document: Mapping[str, Any], where: str) -> _Section:
    values = _find(document, where)
    present = {f.name: values[f.name] for f in fields(section) if values.get(f.name) is not None}
    return section(**present)


def _find(document: Mapping[str, Any], where: str) -> Any:
    value: Any = document
    for name in where.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
