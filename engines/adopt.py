"""Takes an engine that somebody else built into the fold."""

from __future__ import annotations

from pathlib import Path

from engines.engine_files import MANIFEST_FILE
from engines.errors import EngineError
from engines.finding import Finding
from engines.manifest import write_manifest
from engines.note import copy_tokenizer, make_manifest, source_of
from engines.runtime import Runtime, probe
from engines.verify import verify


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
    _refuse_errors(directory, runtime)
    if checkpoint is not None and not copy_tokenizer(checkpoint, directory):
        raise NotAdoptedError(f"{checkpoint} holds no tokenizer")
    _refuse_errors(directory, runtime)
    source = source_of(checkpoint or directory, revision)
    write_manifest(directory, make_manifest(directory, source, runtime, origin="adopted", model_id=model_id))
    return verify(directory, runtime=runtime, quick=True)


def _refuse_errors(directory: Path, runtime: Runtime) -> None:
    errors = [finding for finding in verify(directory, runtime=runtime) if finding.severity == "error"]
    if errors:
        raise NotAdoptedError("; ".join(map(str, errors)))
