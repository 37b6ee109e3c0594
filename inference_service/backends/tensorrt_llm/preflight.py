"""Whether an engine can be served here, as far as files tell. Nothing is imported or loaded for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inference_service.backends.errors import BackendStartError
from inference_service.backends.tensorrt_llm.engine_config import EngineConfig
from inference_service.backends.tensorrt_llm.library import SUPPORTED, is_supported


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the service is going to ask of the engine."""

    max_concurrency: int
    context_length: int
    vocabulary_size: int
    """Of the tokenizer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that keeps the engine from being served."""

    field: str
    found: object
    wanted: object

    def __str__(self) -> str:
        return f"{self.field}: found {self.found}, wanted {self.wanted}"


def check(directory: Path, config: EngineConfig, wanted: Wanted) -> None:
    """Refuse an engine that cannot be served.

    Raises:
        BackendStartError: one line with every finding.

    """
    findings = [*_build_findings(config), *_file_findings(directory, config), *_limits(config, wanted)]
    if findings:
        raise BackendStartError(
            f"the engine in {directory} cannot be served: {'; '.join(map(str, findings))}"
        )


def _build_findings(config: EngineConfig) -> Iterator[Finding]:
    tp, pp, cp = config.parallel_sizes
    if not is_supported(config.version):
        yield Finding("version", config.version, f"a TensorRT-LLM {SUPPORTED}")
    if config.ranks != tp * pp * cp:
        yield Finding("mapping.world_size", config.ranks, f"tp x pp x cp = {tp * pp * cp}")
    if config.kv_cache_type.upper() != "PAGED":
        yield Finding("kv_cache_type", config.kv_cache_type, "PAGED")
    if config.max_draft_len:
        yield Finding("max_draft_len", config.max_draft_len, "0, an engine without speculative decoding")


def _file_findings(directory: Path, config: EngineConfig) -> Iterator[Finding]:
    for rank in range(config.ranks):
        file = directory / f"rank{rank}.engine"
        if not file.is_file():
            yield Finding(file.name, "no such file", f"one file for each of {config.ranks} ranks")
        elif not file.stat().st_size:
            yield Finding(file.name, "an empty file", "the engine's rank")


def _limits(config: EngineConfig, wanted: Wanted) -> Iterator[Finding]:
    if wanted.max_concurrency > config.max_batch_size:
        yield Finding("max_concurrency", wanted.max_concurrency, f"at most {config.max_batch_size}")
    if wanted.context_length > config.context_length:
        yield Finding("context_length", wanted.context_length, f"at most {config.context_length}")
    if wanted.vocabulary_size > config.vocabulary_size:
        yield Finding(
            "tokenizer", f"{wanted.vocabulary_size} tokens", f"at most the engine's {config.vocabulary_size}"
        )
