"""Writes the manifest of an engine: at the end of a build, or for an engine built elsewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from engines.errors import EngineError, Finding
from engines.facts.engine_directory import (
    MANIFEST_FILE,
    EngineConfig,
    engine_files,
    facts_of,
    read_engine_config,
)
from engines.facts.machine import Runtime, probe
from engines.facts.tokenizer_files import (
    TOKENIZER_FILE,
    TokenizerUnreadableError,
    read_tokenizer,
    tokenizer_files,
)
from engines.manifest import BuildFacts, BuildGpu, Golden, Manifest, Software, Source, write_manifest
from engines.verification.files import check_tokenizer
from engines.verification.verify import verify

_COMMIT = re.compile(r"[0-9a-f]{40}")


def make_manifest(
    directory: Path,
    source: Source,
    runtime: Runtime,
    *,
    origin: Literal["built", "adopted"],
    model_id: str | None = None,
    golden: Sequence[Golden] = (),
    build: BuildFacts | None = None,
) -> Manifest:
    """Read every file of an engine directory, and record what is there.

    Args:
        directory: the finished engine.
        source: the checkpoint that it was built from.
        runtime: the machine it was built on.
        origin: see `Manifest`.
        model_id: the name to serve under; None: that of the checkpoint.
        golden: what the engine answered.
        build: how the build went.

    Raises:
        UnreadableConfigError: it is no engine.
        OSError: a file cannot be read.

    """
    config = read_engine_config(directory)
    try:
        tokenizer = read_tokenizer(directory)
    except TokenizerUnreadableError:
        tokenizer = None
    return Manifest(
        model_id=model_id or source.checkpoint,
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        origin=origin,
        source=source,
        software=_software(config, runtime),
        gpu=_gpu(runtime),
        model=config.shape,
        mapping=config.split,
        quantization=config.quantization,
        limits=config.limits,
        plugins=config.plugins,
        tokenizer=tokenizer,
        golden=tuple(golden),
        build=build,
        files={name: facts_of(directory / name) for name in engine_files(directory)},
    )


def source_of(checkpoint: Path, revision: str | None = None) -> Source:
    """Name a checkpoint after its place in the hub's cache, or else after its directory."""
    parts = checkpoint.resolve().parts
    cached = next((part for part in parts if part.startswith("models--")), None)
    if cached is not None and len(parts) > 2 and parts[-2] == "snapshots":
        name = cached.removeprefix("models--").replace("--", "/", 1)
        return Source(checkpoint=name, revision=revision or parts[-1])
    return Source(checkpoint=checkpoint.resolve().name, revision=revision or _downloaded_revision(checkpoint))


def copy_tokenizer(checkpoint: Path, directory: Path) -> tuple[str, ...]:
    """Copy tokenizer, chat template and stop ids beside the engine; return the names of the files."""
    copied = tokenizer_files(checkpoint)
    for path in copied:
        shutil.copyfile(path, directory / path.name)
    return tuple(path.name for path in copied)


def _downloaded_revision(checkpoint: Path) -> str | None:
    """The commit that the hub's client records beside what it downloads into a directory."""
    record = checkpoint / ".cache/huggingface/download/config.json.metadata"
    try:
        first = record.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        return None
    return first if _COMMIT.fullmatch(first) else None


def _software(config: EngineConfig, runtime: Runtime) -> Software:
    """TensorRT's version is that of the build only if TensorRT-LLM's is."""
    same = runtime.tensorrt_llm == config.version
    return Software(
        tensorrt_llm=config.version,
        tensorrt=runtime.tensorrt if same else None,
        cuda=runtime.cuda if same else None,
        driver=runtime.driver if same else None,
    )


def _gpu(runtime: Runtime) -> BuildGpu | None:
    if not runtime.gpus:
        return None
    first = runtime.gpus[0]
    return BuildGpu(name=first.name, sm=first.sm, memory_bytes=first.memory_bytes)


_TOKENIZER_FIELDS = frozenset({TOKENIZER_FILE, "stop_ids"})


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
        The findings of `verify` afterwards: no errors.

    Raises:
        NotAdoptedError: it has a manifest already, there is no tokenizer to copy, or it is damaged.
        OSError: a file cannot be read or written.

    """
    runtime = probe() if runtime is None else runtime
    if (directory / MANIFEST_FILE).exists():
        raise NotAdoptedError(f"it has a {MANIFEST_FILE} already; remove that first")
    # A tokenizer that is to be replaced may be wrong.
    _refuse_errors(directory, runtime, but=frozenset() if checkpoint is None else _TOKENIZER_FIELDS)
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
