"""The steps of the smoke test, in their order."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu_smoke import assumptions, building, load, transports
from benchmarks.gpu_smoke.checkpoint import write_checkpoint
from benchmarks.gpu_smoke.differences import Difference, compare
from benchmarks.gpu_smoke.expected import unexpected
from benchmarks.gpu_smoke.report import Steps
from benchmarks.gpu_smoke.suite import ENGINE
from benchmarks.gpu_smoke.surface import MARK
from engines.facts import toolchain as tools
from engines.facts.machine import Runtime
from engines.facts.tokenizer_files import read_tokenizer

ROOT = Path(__file__).parent.parent.parent
DOUBLE = ROOT / "tests" / "double"
_PACKAGES = (
    "tensorrt_llm", "tensorrt", "torch", "transformers", "tokenizers", "xgrammar", "nvidia-modelopt",
    "pydantic", "numpy", "mpi4py", "pyzmq", "cuda-python", "grpcio", "protobuf", "huggingface-hub", "fastapi",
    "uvicorn", "lodestream",
)  # fmt: skip
_NEEDS_A_TRAINED_MODEL = "natural_end or mixed_up or end_has_one"
"""The contract tests that a model with random weights fails."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    work: Path
    """The work directory, which is new or empty."""
    engine: Path | None
    """The engine to test; None: build small ones."""
    examples: Path | None
    streams: Sequence[int]
    tokens: int


def run(runtime: Runtime, options: Options) -> Steps:
    """Run all steps; a step that fails does not stop the others."""
    steps = Steps()
    steps.run("machine", lambda: machine(runtime))
    _look(steps, options)
    engine = options.engine or _build(steps, runtime, options)
    names = ("behaviour", "dead worker", "transports", "contract suite", "benchmark")
    if engine is None:
        for name in names:
            steps.skip(name, "no engine was built")
        return steps
    answers = steps.run("behaviour", lambda: _behaviour(engine))
    if answers is not None and (others := unexpected(answers["answers"])):
        steps.fail("behaviour", "\n".join(f"{n}: {a!r}, expected {e!r}" for n, (a, e) in others.items()))
    steps.run("dead worker", lambda: _dead_worker(engine))
    checks = steps.run("transports", lambda: _check_transports(engine, options))
    if checks is not None and any(not outcome.startswith("ok") for outcome in checks.values()):
        steps.fail("transports", "\n".join(f"{n}: {o}" for n, o in checks.items() if not o.startswith("ok")))
    steps.run("contract suite", lambda: _suite(engine, is_trained=options.engine is not None))
    steps.run("benchmark", lambda: _benchmark(engine, options))
    steps.results["logs"] = {str(p.relative_to(options.work)): _tail(p) for p in options.work.rglob("*.log")}
    return steps


def machine(runtime: Runtime) -> dict[str, Any]:
    """The GPUs, and the versions of the packages that matter."""
    return {
        **asdict(runtime),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _look(steps: Steps, options: Options) -> None:
    found = steps.run("surface", _surface)
    double = steps.run("surface of the double", lambda: _surface(str(DOUBLE)))
    flags = steps.run("flags", lambda: _flags(options.examples))
    if found is not None and double is not None:
        differences = steps.run(
            "differences",
            lambda: compare(found, double, assumptions.relied_on(), assumptions.listed()) + (flags or []),
        )
        if missing := [str(d) for d in differences or () if d.kind == "missing"]:
            steps.fail("differences", "\n".join(missing))


def _surface(*first: str) -> dict[str, Any]:
    """The surface of the `tensorrt_llm` that is found first, with these directories before all others."""
    paths = os.pathsep.join([*first, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return _document("benchmarks.gpu_smoke.surface", PYTHONPATH=paths)


def _flags(given: Path | None) -> list[Difference]:
    """The flags in our tables that the tools do not know."""
    programs = {tools.BUILD_PROGRAM: ([tools.BUILD_PROGRAM], tools.BUILD)}
    if (examples := building.examples_directory(given)) is not None:
        for script, known in ((tools.CONVERT_SCRIPT, tools.CONVERT), (tools.QUANTIZE_SCRIPT, tools.QUANTIZE)):
            programs[script] = ([sys.executable, str(examples / script)], known)
    differences: list[Difference] = []
    for name, (command, known) in programs.items():
        there = set(re.findall(r"--\w+", building.run(*command, "--help")))
        differences += (
            Difference("listed", name, flag, "engines/facts/toolchain.py")
            for flag in sorted(known.keys() - there)
        )
    return differences


def _build(steps: Steps, runtime: Runtime, options: Options) -> Path | None:
    """Build by each route. Return the first engine that was built successfully."""
    checkpoint = steps.run("checkpoint", lambda: write_checkpoint(options.work / "checkpoint"))
    if checkpoint is None:
        return None
    built = []
    examples = building.examples_directory(options.examples)
    for route in ("llm-api", "trtllm-build"):
        engine = options.work / f"engine-{route}"
        name = f"build by {route}"
        if route == "trtllm-build" and examples is None:
            steps.skip(name, "the examples of TensorRT-LLM are not here; see --examples")
        elif steps.run(name, partial(_built, runtime, checkpoint, engine, route, examples)) is not None:
            built.append(engine)
    if examples is not None and runtime.gpus[0].sm < 89:
        # It is not known yet whether the compiled path accepts it on these GPUs.
        cache = options.work / "engine-fp8-cache"
        steps.run(
            "build with an FP8 KV cache",
            lambda: building.build(
                runtime.gpus[0], checkpoint, cache, "trtllm-build", examples, kv_cache="fp8"
            ),
        )
    dummy = options.work / "engine-dummy"
    if steps.run("build with dummy weights", lambda: building.build_dummy(checkpoint, dummy)) is not None:
        built.append(dummy)
    return built[0] if built else None


def _built(
    runtime: Runtime, checkpoint: Path, engine: Path, route: str, examples: Path | None
) -> dict[str, Any]:
    return building.build(runtime.gpus[0], checkpoint, engine, route, examples or Path("examples"))


def _behaviour(engine: Path) -> dict[str, Any]:
    ends = read_tokenizer(engine).stop_ids
    return _document("benchmarks.gpu_smoke.live", str(engine), *map(str, ends))


def _dead_worker(engine: Path) -> dict[str, Any]:
    """What the process reports, or how it ended; no outcome counts as a failure."""
    try:
        return _document("benchmarks.gpu_smoke.dead_worker", str(engine))
    except building.CommandFailed as error:
        return {"ended": str(error)}


def _check_transports(engine: Path, options: Options) -> dict[str, str]:
    few = {"max_concurrency": str(transports.SLOTS), "queue_limit": "0"}
    with transports.serving(engine, options.work / "transports", **few) as pair:
        return asyncio.run(transports.check_all(pair))


def _suite(engine: Path, *, is_trained: bool) -> list[str]:
    """Run the contract suite. Return the last lines of pytest's output."""
    chosen = () if is_trained else ("-k", f"not ({_NEEDS_A_TRAINED_MODEL})")
    file = Path(__file__).with_name("suite.py")
    plain = ("--override-ini", "filterwarnings=default", "--timeout", "600", "-p", "no:cacheprovider")
    printed = building.run(
        sys.executable,
        "-m",
        "pytest",
        str(file),
        "--quiet",
        *plain,
        *chosen,
        cwd=ROOT,
        **{ENGINE: str(engine)},
    )
    return printed.splitlines()[-3:]


def _benchmark(engine: Path, options: Options) -> list[load.Row]:
    with transports.serving(engine, options.work / "benchmark") as pair:
        return load.measure(pair, options.streams, options.tokens)


def _document(module: str, *arguments: str, **variables: str) -> dict[str, Any]:
    printed = building.run(sys.executable, "-m", module, *arguments, cwd=ROOT, **variables)
    lines = [line for line in printed.splitlines() if line.startswith(MARK)]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    git = shutil.which("git")
    command = [str(git), "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if git else None
    return done.stdout.strip() or None if done else None


def _tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-4000:]
