"""Whether an engine can be served here, found out before anything of TensorRT-LLM is imported or loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from engines.errors import Finding
from engines.facts.engine_directory import CONFIG_FILE, EngineConfig, read_engine_config
from engines.facts.machine import probe
from engines.verification.verify import verify
from inference_service.backends.errors import BackendStartError

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the service is going to ask of the engine."""

    context_length: int
    max_concurrency: int | None
    """None: as many as the engine was built for."""


def check(directory: Path, wanted: Wanted) -> EngineConfig:
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


def _limits(config: EngineConfig, wanted: Wanted) -> Iterator[Finding]:
    slots, longest = config.limits.max_batch_size, longest_request(config)
    if wanted.max_concurrency is not None and wanted.max_concurrency > slots:
        yield Finding("max_concurrency", str(wanted.max_concurrency), f"at most the engine's {slots}")
    if wanted.context_length > longest:
        yield Finding("context_length", str(wanted.context_length), f"at most the engine's {longest}")


def _speculation(directory: Path) -> Iterator[Finding]:
    """Engines that draft tokens must be told how when they are loaded, and take few of the parameters."""
    document = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    drafted = document["build_config"].get("max_draft_len")
    if drafted:
        yield Finding("build_config.max_draft_len", str(drafted), "0: speculative decoding is not served")
