"""Whether an engine directory is whole and can be served: everything that can be told without loading it.

Nothing is imported from TensorRT-LLM, and no GPU is touched. Directories that `trtllm-build` wrote by itself
have no manifest; what cannot be told of them is said in findings of severity `unchecked`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from engines.engine_config import EngineConfig, UnreadableConfigError, read_engine_config
from engines.engine_files import MANIFEST_FILE
from engines.finding import Finding
from engines.manifest import Manifest, ManifestError, read_manifest
from engines.runtime import Runtime
from engines.verification.config import check_config
from engines.verification.files import check_ranks, check_recorded, check_unrecorded
from engines.verification.machine import check_machine
from engines.verification.recorded import check_against_manifest
from engines.verification.tokenizer import check_tokenizer

__all__ = ["Finding", "has_errors", "verify"]


def verify(directory: Path, *, runtime: Runtime | None = None, quick: bool = False) -> list[Finding]:
    """Look at an engine directory.

    Args:
        directory: where config.json and the plans are.
        runtime: the machine to load it on, as `engines.runtime.probe` finds it; None: any machine, so
            that versions, SM and memory are left out.
        quick: compare sizes of plans only, not their content; everything else is still hashed.

    Returns:
        Findings, errors first, then warnings, then what could not be checked. No errors: it can be served.

    """
    if not directory.is_dir():
        return [Finding(str(directory), "no directory", "an engine directory")]
    order = ("error", "warning", "unchecked")
    found = sorted(_findings(directory, runtime, quick=quick), key=lambda f: order.index(f.severity))
    # What is missing is missed by several checks; the first says it.
    return list({(f.field, f.found): f for f in reversed(found)}.values())[::-1]


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether the engine must not be served."""
    return any(finding.severity == "error" for finding in findings)


def _findings(directory: Path, runtime: Runtime | None, *, quick: bool) -> Iterator[Finding]:
    config: EngineConfig | None = None
    manifest: Manifest | None = None
    try:
        config = read_engine_config(directory)
    except UnreadableConfigError as error:
        yield from error.findings
    try:
        manifest = read_manifest(directory)
    except ManifestError as error:
        yield from error.findings
    if config is not None:
        yield from check_config(config)
        yield from check_ranks(directory, config)
        if manifest is not None:
            yield from check_against_manifest(config, manifest)
        has_manifest = (directory / MANIFEST_FILE).exists()
        yield from check_unrecorded(directory, config, has_manifest=has_manifest)
    if manifest is not None:
        yield from check_recorded(directory, manifest, quick=quick)
    yield from check_tokenizer(directory, config, manifest)
    if config is not None and runtime is not None:
        yield from check_machine(directory, config, manifest, runtime)
