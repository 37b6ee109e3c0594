"""Loads the engine of an engine directory, and checks the directory before anything is imported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog

from engines.errors import Finding
from engines.facts.engine_directory import CONFIG_FILE, EngineConfig, read_engine_config
from engines.facts.machine import probe
from engines.verification.verify import verify
from inference_service.backends.base import BackendStartError
from inference_service.backends.tensorrt_llm.engine import Engine
from inference_service.backends.tensorrt_llm.library import Library, load_library

_log = structlog.stdlib.get_logger(__name__)


def load_engine(directory: Path, config: EngineConfig, end_ids: frozenset[int]) -> Engine:
    """Import the library and load an engine with it. Blocks, for minutes where the engine is large.

    Args:
        directory: an engine directory that passed its preflight.
        config: what it says of itself.
        end_ids: tokens that end a generation, at least one.

    Raises:
        BackendStartError: the library is missing or of another version, or cannot load the engine.

    """
    library = load_library()
    if library.options.guided is not None and not has_fast_tokenizer(directory):
        # The library sets xgrammar up when it loads the engine, and would not load it.
        _log.warning(
            "no_grammars", directory=str(directory), reason="transformers has no fast tokenizer for it"
        )
        library = replace(library, options=replace(library.options, guided=None))
    if library.version != config.version:
        raise BackendStartError(
            f"the engine in {directory} cannot be served: version: found {config.version}, wanted the "
            f"installed TensorRT-LLM, {library.version}; build the engine with it"
        )
    _log.info("tensorrt_llm", version=library.version, refused=sorted(library.refused))
    try:
        llm = library.llm(**arguments(directory, config, library))
    except Exception as error:
        raise BackendStartError(f"TensorRT-LLM cannot load {directory}: {_reason(error)}") from error
    return Engine(llm, library, end_ids, config.shape.vocab_size)


def has_fast_tokenizer(directory: Path) -> bool:
    """Whether transformers makes a fast tokenizer of a directory's files, as the library has it do."""
    try:
        tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(str(directory))
    except Exception as error:
        _log.info("no_tokenizer", directory=str(directory), reason=f"{type(error).__name__}: {error}"[:300])
        return False
    return bool(getattr(tokenizer, "is_fast", False))


def arguments(directory: Path, config: EngineConfig, library: Library) -> dict[str, Any]:
    """The constructor's arguments.

    The engine's own limits are passed one by one: the defaults (2048 requests, 8192 tokens, 1024 of
    prompt) are not taken from the engine in every release, and larger ones end in a C++ check.
    """
    limits, paged = config.limits, config.plugins.use_paged_context_fmha
    guided = {"guided_decoding_backend": "xgrammar"} if library.options.guided else {}
    return {
        "model": str(directory),
        "max_batch_size": limits.max_batch_size,
        "max_num_tokens": limits.max_num_tokens,
        "max_seq_len": limits.max_seq_len,
        "max_input_len": limits.max_input_len,
        "max_beam_width": limits.max_beam_width,
        "kv_cache_config": library.kv_cache_config(enable_block_reuse=paged),
        "enable_chunked_prefill": paged,
        **guided,
    }


def _reason(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@dataclass(frozen=True, slots=True)
class ExpectedEngine:
    """What the service is going to ask of the engine."""

    context_length: int
    max_concurrency: int | None
    """None: as many as the engine was built for."""


def check(directory: Path, wanted: ExpectedEngine) -> EngineConfig:
    """Verify an engine; what it says of itself. Takes a second or two, and blocks.

    Plans are compared with their manifest by size only: hashing them takes as long as loading them.

    Raises:
        BackendStartError: it cannot be served here; with a line for each reason.

    """
    findings = verify(directory, runtime=probe(), quick=True)
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        config = read_engine_config(directory)
        errors = [*_limits(config, wanted), *_speculation(directory)]
    if errors:
        raise BackendStartError(
            f"the engine in {directory} cannot be served", [str(finding) for finding in errors]
        )
    for finding in findings:
        if finding.severity == "warning":
            _log.warning("engine", directory=str(directory), finding=str(finding))
    return config


def longest_request(config: EngineConfig) -> int:
    """Most tokens of one request. Where prompts cannot be chunked, they must fit one engine step."""
    if config.plugins.use_paged_context_fmha:
        return config.limits.max_seq_len
    return min(config.limits.max_seq_len, config.limits.max_num_tokens)


def _limits(config: EngineConfig, wanted: ExpectedEngine) -> Iterator[Finding]:
    slots, longest = config.limits.max_batch_size, longest_request(config)
    if wanted.max_concurrency is not None and wanted.max_concurrency > slots:
        yield Finding("max_concurrency", str(wanted.max_concurrency), f"at most the engine's {slots}")
    if wanted.context_length > longest:
        yield Finding("context_length", str(wanted.context_length), f"at most the engine's {longest}")


def _speculation(directory: Path) -> Iterator[Finding]:
    """Find a drafting engine: it needs settings when it is loaded, and supports few of the parameters."""
    document = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    drafted = document["build_config"].get("max_draft_len")
    if drafted:
        yield Finding("build_config.max_draft_len", str(drafted), "0: speculative decoding is not served")
