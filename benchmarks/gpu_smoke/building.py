"""Builds engines from the checkpoint and verifies them with `lodestream engine`, as operators do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.facts.gpus import GPUS, Gpu
from engines.facts.machine import InstalledGpu, writable_workspace

LIMITS = ("--max-batch-size", "256", "--max-seq-len", "8192", "--max-num-tokens", "8192")
EXAMPLES = ("/app/tensorrt_llm/examples", "/workspace/TensorRT-LLM/examples")
"""The directories of the examples in NVIDIA's images."""

_BUILD_SECONDS = 1800
_DUMMY = """\
from tensorrt_llm._tensorrt_engine import LLM
from tensorrt_llm.llmapi import BuildConfig

if __name__ == "__main__":
    limits = dict(max_batch_size=256, max_num_tokens=8192, max_seq_len=8192, max_beam_width=1)
    build = BuildConfig(**limits)
    llm = LLM(model={model!r}, load_format="dummy", dtype="bfloat16", build_config=build, **limits)
    llm.save({engine!r})
    llm.shutdown()
"""


class CommandFailed(Exception):
    """A program failed; the message holds the end of its output."""


def planned_gpu(gpu: InstalledGpu) -> Gpu:
    """The row of our GPU table that is nearest to an installed GPU.

    Raises:
        CommandFailed: no row has its architecture.

    """
    alike = [row for row in GPUS if row.sm == gpu.sm]
    if not alike:
        raise CommandFailed(f"{gpu.name} is SM {gpu.sm}, which no row of our GPU table is")
    return min(alike, key=lambda row: abs(row.usable_bytes - gpu.memory_bytes))


def build(
    gpu: InstalledGpu, checkpoint: Path, engine: Path, route: str, examples: Path, *, kv_cache: str = "bf16"
) -> dict[str, Any]:
    """Build by one of the two routes, without quantising the weights.

    Return the output and the verification.
    """
    flags = ("--model", str(checkpoint), "--output", str(engine), "--quantization", "bf16", *LIMITS)
    where = ("--route", route, "--examples", str(examples))
    # An FP8 cache without FP8 attention excludes paged context; the builder would turn paged context off.
    cache = ("--kv-cache", kv_cache, *(("--no-paged-context",) if kv_cache != "bf16" else ()))
    printed = lodestream("engine", "build", "--gpu", planned_gpu(gpu).name, *cache, *flags, *where)
    return {"printed": printed, "verify": lodestream("engine", "verify", str(engine), "--golden")}


def build_dummy(checkpoint: Path, engine: Path) -> dict[str, Any]:
    """Build with the library's own dummy weights, and adopt the result."""
    program = engine.with_name(f"{engine.name}.py")
    program.write_text(_DUMMY.format(model=str(checkpoint), engine=str(engine)), encoding="utf-8")
    run(sys.executable, str(program), cwd=engine.parent)
    return {"adopt": lodestream("engine", "adopt", str(engine), "--checkpoint", str(checkpoint))}


def examples_directory(given: Path | None) -> Path | None:
    """The `examples` directory of TensorRT-LLM's source tree, or None."""
    places = [given] if given else [Path(place) for place in EXAMPLES]
    return next((place for place in places if place.is_dir()), None)


def lodestream(*arguments: str) -> list[str]:
    """Run a `lodestream` command. Return the lines that it prints."""
    return run(sys.executable, "-m", "lodestream.cli", *arguments).splitlines()


def run(*command: str, cwd: Path | None = None, **variables: str) -> str:
    """Run a program and return its output.

    Raises:
        CommandFailed: it failed or did not end in time.

    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment(**variables),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_BUILD_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{_shown(command)} did not end in {_BUILD_SECONDS} s") from error
    if done.returncode:
        tail = f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}".strip()
        raise CommandFailed(f"{_shown(command)} ended with {done.returncode}:\n{tail}")
    return done.stdout


def environment(**variables: str) -> dict[str, str]:
    """The environment of a program: it finds this Python first, and the modules of this process."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **writable_workspace(os.environ), "PATH": programs, **variables}


def _shown(command: Sequence[str]) -> str:
    return " ".join(Path(word).name if position == 0 else word for position, word in enumerate(command))
