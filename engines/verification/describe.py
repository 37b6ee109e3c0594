"""Describes an engine directory, as a table for people or as a document for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from engines.facts.engine_directory import EngineConfig, engine_files, is_large, read_engine_config
from engines.facts.gpus import gib
from engines.facts.tokenizer_files import TokenizerFacts, TokenizerUnreadableError, read_tokenizer
from engines.manifest import Manifest, read_manifest

Rows = Iterable[tuple[str, str]]

_UNKNOWN = "not recorded"


def describe(directory: Path) -> str:
    """Describe an engine in sections of two columns.

    Raises:
        UnreadableConfigError: it is no engine.
        ManifestError: its manifest is not valid.

    """
    config, manifest = read_engine_config(directory), read_manifest(directory)
    sections: dict[str, Rows] = {
        "model": _model(config, manifest),
        "engine": _engine(config),
        "limits": _limits(config),
        "tokenizer": _tokenizer(_read_tokenizer_or_none(directory)),
        "built": _build(config, manifest),
        "files": _files(directory),
    }
    return "\n\n".join(_section(title, rows) for title, rows in sections.items())


def document(directory: Path) -> dict[str, Any]:
    """Describe the same as plain values, for scripts.

    Raises:
        UnreadableConfigError: it is no engine.
        ManifestError: its manifest is not valid.

    """
    config, manifest = read_engine_config(directory), read_manifest(directory)
    tokenizer = _read_tokenizer_or_none(directory)
    return {
        "directory": str(directory),
        "config": config.model_dump(mode="json"),
        "tokenizer": tokenizer.model_dump(mode="json") if tokenizer else None,
        "files": {name: (directory / name).stat().st_size for name in engine_files(directory)},
        "manifest": manifest.model_dump(mode="json", by_alias=True) if manifest else None,
    }


def _read_tokenizer_or_none(directory: Path) -> TokenizerFacts | None:
    try:
        return read_tokenizer(directory)
    except TokenizerUnreadableError:
        return None


def _section(title: str, rows: Rows) -> str:
    lines = list(rows)
    width = max(18, *(len(name) for name, _ in lines))
    return "\n".join([title, *(f"  {name:<{width}} {value}" for name, value in lines)])


def _model(config: EngineConfig, manifest: Manifest | None) -> Iterator[tuple[str, str]]:
    shape = config.shape
    if manifest:
        yield "name", manifest.model_id
        yield "checkpoint", f"{manifest.source.checkpoint}, revision {manifest.source.revision or _UNKNOWN}"
    yield "architecture", f"{shape.architecture}, {shape.dtype}"
    yield "layers", f"{shape.num_hidden_layers} x {shape.hidden_size}, inner {shape.intermediate_size}"
    heads = f"{shape.num_attention_heads} heads of {shape.head_size}"
    yield "attention", f"{heads}, {shape.num_key_value_heads} for keys and values"
    yield "vocabulary", str(shape.vocab_size)


def _engine(config: EngineConfig) -> Iterator[tuple[str, str]]:
    split, plugins = config.split, config.plugins
    yield "TensorRT-LLM", config.version
    yield "GPUs", f"{split.world_size} (tp {split.tp_size}, pp {split.pp_size}, cp {split.cp_size})"
    yield "weights", config.quantization.quant_algo or "not quantised"
    yield "KV cache", config.quantization.kv_cache_quant_algo or "not quantised"
    yield "KV blocks", f"{config.limits.kv_cache_type}, of {plugins.tokens_per_block} tokens"
    reuse = "yes" if plugins.use_paged_context_fmha else "no"
    yield "reuse, chunking", f"{reuse}: paged-context attention is {'on' if reuse == 'yes' else 'off'}"


def _limits(config: EngineConfig) -> Iterator[tuple[str, str]]:
    limits = config.limits
    yield "requests at once", str(limits.max_batch_size)
    yield "tokens a request", str(limits.max_seq_len)
    yield "tokens a step", str(limits.max_num_tokens)
    yield "beams", str(limits.max_beam_width)


def _tokenizer(facts: TokenizerFacts | None) -> Iterator[tuple[str, str]]:
    if facts is None:
        yield "tokens", "no readable tokenizer"
        return
    yield "tokens", str(facts.vocabulary_size)
    yield "stop ids", ", ".join(map(str, facts.stop_ids)) or "none"
    yield "sha256", facts.sha256
    yield "chat template", facts.chat_template_sha256 or "none"


def _build(config: EngineConfig, manifest: Manifest | None) -> Iterator[tuple[str, str]]:
    if manifest is None:
        yield "manifest", "none: GPU, versions, checkpoint and hashes are unknown; see `engine adopt`"
        return
    gpu, software = manifest.gpu, manifest.software
    yield "when", f"{manifest.created_at} ({manifest.origin})"
    yield "GPU", f"{gpu.name}, SM {gpu.sm}, {gib(gpu.memory_bytes)}" if gpu else _UNKNOWN
    yield "TensorRT", software.tensorrt or _UNKNOWN
    yield "CUDA, driver", f"{software.cuda or _UNKNOWN}, {software.driver or _UNKNOWN}"
    if manifest.build:
        yield "took", f"{manifest.build.seconds:.0f} s by {manifest.build.route}"
    yield "golden answers", str(len(manifest.golden))


def _files(directory: Path) -> Iterator[tuple[str, str]]:
    for name in engine_files(directory):
        size = (directory / name).stat().st_size
        yield name, gib(size) if is_large(name) and size > 10**7 else f"{size:,} bytes"
