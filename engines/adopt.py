"""Takes an engine that somebody else built into the fold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engines.engine_config import read_engine_config
from engines.engine_files import MANIFEST_FILE
from engines.errors import EngineError
from engines.finding import Finding
from engines.manifest import write_manifest
from engines.note import copy_tokenizer, make_manifest, source_of
from engines.runtime import Runtime, probe
from engines.tokenizer_files import TOKENIZER_FILE, tokenizer_files
from engines.verification.tokenizer import check_tokenizer
from engines.verify import verify

_TOKENIZER = frozenset({TOKENIZER_FILE, "stop_ids"})


class NotAdoptedError(EngineError):
    """Expected: the directory cannot get a manifest. The message is one line."""


def adopt(
    directory: Path,
    checkpoint: Path | None = None,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    runtime: Runtime | None = None,
) -> list[Finding]:
    """Write a manifest for an engine directory without one.

    Args:
        directory: of the engine.
        checkpoint: where tokenizer and chat template are copied from; None: what is there has to do.
        model_id: the name to serve under; None: the checkpoint's, or the directory's.
        revision: of the checkpoint.
        runtime: the machine that built it; None: this one.

    Returns:
        What `verify` says afterwards: no errors.

    Raises:
        NotAdoptedError: it has a manifest already, there is no tokenizer to copy, or it is damaged.
        OSError: a file cannot be read or written.

    """
    runtime = probe() if runtime is None else runtime
    if (directory / MANIFEST_FILE).exists():
        raise NotAdoptedError(f"it has a {MANIFEST_FILE} already; remove that first")
    # A tokenizer that is to be replaced may be wrong.
    _refuse_errors(directory, runtime, but=frozenset() if checkpoint is None else _TOKENIZER)
    if checkpoint is not None:
        _copy_tokenizer(checkpoint, directory)
    source = source_of(checkpoint or directory, revision)
    write_manifest(directory, make_manifest(directory, source, runtime, origin="adopted", model_id=model_id))
    return verify(directory, runtime=runtime, quick=True)


def _refuse_errors(directory: Path, runtime: Runtime, but: frozenset[str]) -> None:
    findings = verify(directory, runtime=runtime)
    _refuse(finding for finding in findings if finding.field not in but)


def _copy_tokenizer(checkpoint: Path, directory: Path) -> None:
    if not tokenizer_files(checkpoint):
        raise NotAdoptedError(f"{checkpoint} holds no tokenizer")
    _refuse(check_tokenizer(checkpoint, read_engine_config(directory), None))
    copy_tokenizer(checkpoint, directory)


def _refuse(findings: Iterable[Finding]) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise NotAdoptedError("; ".join(map(str, errors)))
