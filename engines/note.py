"""Writes down what an engine directory is: the manifest of a finished build, or of somebody else's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from engines.engine_config import EngineConfig, read_engine_config
from engines.engine_files import engine_files, facts_of
from engines.manifest import BuildFacts, BuildGpu, Golden, Manifest, Software, Source
from engines.runtime import Runtime
from engines.tokenizer_files import TokenizerUnreadableError, read_tokenizer, tokenizer_files

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
    """Read an engine directory, every file of it, and note what is there.

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
        return Source(cached.removeprefix("models--").replace("--", "/", 1), revision or parts[-1])
    return Source(checkpoint.resolve().name, revision or _downloaded_revision(checkpoint))


def copy_tokenizer(checkpoint: Path, directory: Path) -> tuple[str, ...]:
    """Copy what has to lie beside the engine: tokenizer, chat template, ends of an answer. Says what."""
    copied = tokenizer_files(checkpoint)
    for path in copied:
        shutil.copyfile(path, directory / path.name)
    return tuple(path.name for path in copied)


def _downloaded_revision(checkpoint: Path) -> str | None:
    """The commit that the hub's own client notes beside what it downloads into a directory."""
    note = checkpoint / ".cache/huggingface/download/config.json.metadata"
    try:
        first = note.read_text(encoding="utf-8").partition("\n")[0].strip()
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
    return BuildGpu(first.name, first.sm, first.memory_bytes)
