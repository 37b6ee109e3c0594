"""Lists the stages of a build, and records which are done, so that a build can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from engines.building.job import GOLDEN_TOKENS, PROMPTS, Job
from engines.errors import Document, Seconds
from engines.facts.tokenizer_files import read_tokenizer
from engines.planning.recipe import Command, Route
from engines.planning.report import wrap
from engines.verification import golden_program

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
    """A description for people."""
    fingerprint: str
    """Of everything that its result depends on, the stages before included."""
    result: Path
    """Exists when the stage is done."""
    clears: Path | None = None
    """Removed before it begins: what an earlier attempt left."""
    argv: tuple[str, ...] | None = None
    prepare: Callable[[], None] = lambda: None
    """Writes what the program needs."""


def stages(job: Job, runtime: object) -> tuple[Stage, ...]:
    """List all stages but the last, which verifies and publishes and is repeated in every run.

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
    program, questions_file, answers_file = (
        job.work / name for name in ("golden.py", "questions.json", "golden.json")
    )

    def prepare() -> None:
        source = Path(golden_program.__file__).read_text(encoding="utf-8")
        program.write_text(source, encoding="utf-8")
        stop_ids = read_tokenizer(job.engine).stop_ids
        questions = {"prompts": PROMPTS, "max_tokens": GOLDEN_TOKENS, "stop_ids": stop_ids}
        questions_file.write_text(json.dumps(questions), encoding="utf-8")

    return Stage(
        name="golden",
        about=f"load the engine and keep its answers to {len(PROMPTS)} prompts",
        fingerprint=mark,
        result=answers_file,
        clears=answers_file,
        argv=("python3", *map(str, (program, job.engine, questions_file, answers_file))),
        prepare=prepare,
    )


def _manifest(job: Job, mark: str) -> Stage:
    about = "hash every file and write manifest.json"
    return Stage("manifest", about, mark, job.engine / "manifest.json")


class Done(Document):
    """A stage that was finished."""

    fingerprint: str
    """Of everything that its result depends on."""
    seconds: Seconds


class _StateFile(Document):
    """The content of the file."""

    schema_name: Annotated[Literal["lodestream.engine-build"], Field(alias="schema")] = (
        "lodestream.engine-build"
    )
    version: Literal[1] = 1
    stages: dict[str, Done]


class State:
    """Which stages of a build are done, in a file. A damaged or foreign file counts as empty.

    Args:
        path: the file; written whole or not at all, after every stage.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._done = dict(_StateFile.model_validate_json(path.read_bytes()).stages)
        except (OSError, ValueError):
            self._done = {}

    def find(self, stage: str, fingerprint: str) -> Done | None:
        """Return the stage, if it was finished with exactly this fingerprint."""
        done = self._done.get(stage)
        return done if done is not None and done.fingerprint == fingerprint else None

    def finish(self, stage: str, done: Done) -> None:
        """Record that a stage is done."""
        self._done[stage] = done
        self._write()

    def forget(self, stages: Iterable[str]) -> None:
        """Record that stages have to be done again."""
        self._done = {name: done for name, done in self._done.items() if name not in set(stages)}
        self._write()

    def _write(self) -> None:
        partial = self._path.with_name(self._path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(_StateFile(stages=self._done).model_dump_json(by_alias=True, indent=2))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)


def fingerprint(*parts: object) -> str:
    """Hash everything given; equal for equal values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def listing(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """List name, size and time of every file in a directory: it changes when a checkpoint does."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def dry_run(job: Job) -> str:
    """Describe every stage of a job without doing any.

    Raises:
        BuildRefused: the route is closed for this plan.

    """
    route = job.chosen_route(has_timing_cache=job.timing_cache.is_file())
    planned = stages(job, None)
    parts = [f"{job.plan.model.name} in {job.plan.form.name} for {job.plan.gpu.title}, by {route.name}"]
    parts += [_describe(number, len(planned) + 1, stage) for number, stage in enumerate(planned, 1)]
    parts.append(
        f"[{len(planned) + 1}/{len(planned) + 1}] verify: check the directory and move it to {job.output}"
    )
    if route.program is not None:
        parts.append(f"with this as {job.program}:\n\n{route.program.rstrip()}")
    return "\n\n".join(parts)


def dry_run_document(job: Job) -> str:
    """Describe the same as a JSON object."""
    route = job.chosen_route(has_timing_cache=job.timing_cache.is_file())
    planned = [{"stage": stage.name, "about": stage.about, "argv": stage.argv} for stage in stages(job, None)]
    facts = {"route": route.name, "work": str(job.work), "output": str(job.output), "program": route.program}
    return json.dumps({**facts, "stages": planned}, indent=2)


def _describe(number: int, total: int, stage: Stage) -> str:
    head = f"[{number}/{total}] {stage.name}: {stage.about}"
    if stage.argv is None:
        return head
    return f"{head}\n\n    {wrap(Command('build', stage.argv))}"
