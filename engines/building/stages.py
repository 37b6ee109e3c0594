"""The stages of a build, in order: the route's own commands, then what is added to the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engines.building import golden_program
from engines.building.job import GOLDEN_TOKENS, PROMPTS, Job
from engines.building.state import fingerprint, listing
from engines.recipe import Command, Route
from engines.tokenizer_files import read_tokenizer

_ABOUT = {
    "convert": "bring the checkpoint into TensorRT-LLM's format",
    "quantize": "quantise the checkpoint",
    "build": "compile the engine",
    "save": "quantise, compile and save the engine",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One step. Either a program, or something that this process does itself."""

    name: str
    about: str
    """What it does, for people."""
    fingerprint: str
    """Of everything that its result depends on, the stages before included."""
    result: Path
    """Is there when the stage is done."""
    clears: Path | None = None
    """Removed before it begins: what an earlier attempt left."""
    argv: tuple[str, ...] | None = None
    prepare: Callable[[], None] = lambda: None
    """Writes what the program needs."""


def stages(job: Job, runtime: object) -> tuple[Stage, ...]:
    """All of them but the last two, which verify and publish; these are done anew in every run.

    Args:
        job: what to build.
        runtime: the machine and its software; on another machine everything is done again.

    Raises:
        BuildRefused: the route is closed for this plan.

    """
    # The cache of timings makes a build faster, not another one: fingerprints leave it out.
    now = job.chosen_route(has_timing_cache=job.timing_cache.is_file())
    plain = job.chosen_route(has_timing_cache=False)
    mark = fingerprint(listing(job.model) if job.model.is_dir() else (), runtime)
    found = []
    for command, bare in zip(now.commands, plain.commands, strict=True):
        mark = fingerprint(mark, bare.argv, plain.program)
        found.append(_of_command(job, now, command, mark))
    mark = fingerprint(mark, listing(job.tokenizer) if job.tokenizer.is_dir() else ())
    found.append(_tokenizer(job, mark))
    mark = fingerprint(mark, PROMPTS, GOLDEN_TOKENS)
    found.append(_golden(job, mark))
    mark = fingerprint(mark, job.model_id, job.revision, str(job.model))
    found.append(_manifest(job, mark))
    return tuple(found)


def _of_command(job: Job, route: Route, command: Command, mark: str) -> Stage:
    target = job.checkpoint if command.stage in ("convert", "quantize") else job.engine

    def prepare() -> None:
        if route.program is not None:
            job.program.write_text(route.program, encoding="utf-8")

    return Stage(
        name=command.stage,
        about=_ABOUT[command.stage],
        fingerprint=mark,
        result=target / "config.json",
        clears=target,
        argv=command.argv,
        prepare=prepare,
    )


def _tokenizer(job: Job, mark: str) -> Stage:
    about = f"copy tokenizer, chat template and generation config from {job.tokenizer}"
    return Stage("tokenizer", about, mark, job.engine / "tokenizer.json")


def _golden(job: Job, mark: str) -> Stage:
    program, asked, answered = (job.work / name for name in ("golden.py", "asked.json", "golden.json"))

    def prepare() -> None:
        source = Path(golden_program.__file__).read_text(encoding="utf-8")
        program.write_text(source, encoding="utf-8")
        stop_ids = read_tokenizer(job.engine).stop_ids
        questions = {"prompts": PROMPTS, "max_tokens": GOLDEN_TOKENS, "stop_ids": stop_ids}
        asked.write_text(json.dumps(questions), encoding="utf-8")

    return Stage(
        name="golden",
        about=f"load the engine and keep its answers to {len(PROMPTS)} prompts",
        fingerprint=mark,
        result=answered,
        clears=answered,
        argv=("python3", *map(str, (program, job.engine, asked, answered))),
        prepare=prepare,
    )


def _manifest(job: Job, mark: str) -> Stage:
    about = "hash every file and write manifest.json"
    return Stage("manifest", about, mark, job.engine / "manifest.json")
