"""Detects the GPUs of this machine and the software that builds and loads engines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.facts.gpus import MIB

_NVIDIA_SMI = ("name", "compute_cap", "memory.total", "memory.free", "driver_version")
_ASK_SECONDS = 30
_IMPORT_SECONDS = 300
_MARK = "lodestream versions: "
# The import takes long and starts MPI, so it is the last resort. It also prints lines of its own.
_VERSIONS = f"""
import json
from importlib import metadata, util

def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

found = {{name: version(name) for name in ("tensorrt_llm", "tensorrt")}}
if found["tensorrt_llm"] is None and util.find_spec("tensorrt_llm"):
    import tensorrt_llm
    found["tensorrt_llm"] = tensorrt_llm.__version__
print({_MARK!r} + json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class InstalledGpu:
    """One GPU of this machine."""

    name: str
    sm: int
    """Compute capability without the dot."""
    memory_bytes: int
    free_bytes: int
    """At the moment of looking."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The detected values; None or empty if there is none."""

    tensorrt_llm: str | None = None
    tensorrt: str | None = None
    cuda: str | None = None
    driver: str | None = None
    gpus: tuple[InstalledGpu, ...] = ()
    """Those that this process may use: CUDA_VISIBLE_DEVICES counts."""


def probe(environment: Mapping[str, str] = os.environ, *, python: str | None = None) -> Runtime:
    """Look at this machine. Takes a second, more where TensorRT-LLM has to be imported for its version.

    Args:
        environment: its variables decide which GPUs may be used, and where CUDA is.
        python: the interpreter that loads engines; None: this one, with its import path.

    """
    gpus, driver = _gpus(environment)
    versions = _versions(python)
    return Runtime(
        tensorrt_llm=versions.get("tensorrt_llm"),
        tensorrt=versions.get("tensorrt"),
        cuda=_cuda(environment),
        driver=driver,
        gpus=gpus,
    )


def writable_workspace(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to set before TensorRT-LLM is imported: flashinfer, which it imports, writes a cache.

    It does so below the home directory, and the import fails where that cannot be written, as in containers
    that run as some user or on a file system that is read-only. Nothing is returned where it can.
    """
    home = environment.get("FLASHINFER_WORKSPACE_BASE") or environment.get("HOME") or "/"
    place = Path(home).absolute()
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return {}
    base = Path(tempfile.gettempdir()) / f"lodestream-flashinfer-{os.getuid()}"
    return {"FLASHINFER_WORKSPACE_BASE": str(base)}


def _versions(python: str | None) -> dict[str, str | None]:
    own = {} if python else {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    output = _run(python or sys.executable, "-c", _VERSIONS, seconds=_IMPORT_SECONDS, **own)
    marked = [line.removeprefix(_MARK) for line in output.splitlines() if line.startswith(_MARK)]
    found: dict[str, str | None] = json.loads(marked[-1]) if marked else {}
    return found


def _cuda(environment: Mapping[str, str]) -> str | None:
    """Of the toolkit: NVIDIA's images name it in a variable, installations in a file."""
    if environment.get("CUDA_VERSION"):
        return environment["CUDA_VERSION"]
    try:
        home = Path(environment.get("CUDA_HOME") or "/usr/local/cuda")
        version = json.loads((home / "version.json").read_text(encoding="utf-8"))["cuda"]["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(version)


def _gpus(environment: Mapping[str, str]) -> tuple[tuple[InstalledGpu, ...], str | None]:
    program, visible = shutil.which("nvidia-smi"), environment.get("CUDA_VISIBLE_DEVICES")
    if program is None or visible in ("", "-1"):
        return (), None
    only = () if visible is None else (f"--id={visible}",)
    output = _run(
        program, f"--query-gpu={','.join(_NVIDIA_SMI)}", "--format=csv,noheader,nounits", *only,
        seconds=_ASK_SECONDS,
    )  # fmt: skip
    rows = [[cell.strip() for cell in line.rsplit(",", len(_NVIDIA_SMI) - 1)] for line in output.splitlines()]
    try:
        gpus = tuple(_gpu(row) for row in rows if any(row))
    except ValueError:
        return (), None
    return gpus, rows[0][-1] if gpus else None


def _gpu(row: list[str]) -> InstalledGpu:
    name, capability, total, free, _ = row
    return InstalledGpu(name, int(capability.replace(".", "")), int(total) * MIB, int(free) * MIB)


def _run(*command: str, seconds: float, **variables: str) -> str:
    """The output of a program; empty if it fails."""
    try:
        done = subprocess.run(  # noqa: S603  the command is ours
            command,
            env={**os.environ, **writable_workspace(os.environ), **variables},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
