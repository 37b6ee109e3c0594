"""Runs a build, stage by stage, and goes on where an earlier run ended."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from engines.building import outcome
from engines.building.errors import StageFailed
from engines.building.failures import Diagnosis, diagnose
from engines.building.job import Job
from engines.building.lock import only_build
from engines.building.preflight import check_files, check_machine, check_output
from engines.building.program import Program
from engines.building.progress import Progress
from engines.building.stages import Stage, stages
from engines.building.state import Done, State
from engines.engine_config import read_engine_config
from engines.engine_files import MANIFEST_FILE
from engines.errors import EngineError
from engines.finding import Finding
from engines.manifest import BuildFacts, Golden, write_manifest
from engines.note import copy_tokenizer, make_manifest, source_of
from engines.runtime import Runtime
from engines.verify import has_errors, verify


def build(
    job: Job, runtime: Runtime, stream: TextIO, environment: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Build an engine; or say that it is built already, where exactly this one is.

    The output directory appears whole, at the end, or not at all. A run that was interrupted, even killed,
    is resumed by the next one with the same job; stages whose inputs changed are done again.

    Args:
        job: what to build.
        runtime: this machine.
        stream: where progress goes.
        environment: of the programs.

    Returns:
        What verification found: no errors.

    Raises:
        BuildRefused: it cannot begin; nothing was changed.
        StageFailed: a stage ended badly.

    """
    check_files(job)
    job.work.mkdir(parents=True, exist_ok=True)
    with only_build(job.work) as lock:
        return _Build(job, runtime, stream, environment, lock).run()


class _Build:
    """One run."""

    def __init__(
        self, job: Job, runtime: Runtime, stream: TextIO, environment: Mapping[str, str], lock: int
    ) -> None:
        self._job = job
        self._runtime = runtime
        self._environment = environment
        self._lock = lock
        self._state = State(job.work / "state.json")
        self._stages = stages(job, (runtime.tensorrt_llm, runtime.tensorrt))
        self._progress = Progress(stream, len(self._stages) + 1)
        self._seconds: dict[str, float] = {}

    def run(self) -> list[Finding]:
        if self._is_published():
            self._progress.say(f"{self._job.output} is built already; it is verified once more")
            return self._verify(self._job.output)
        check_output(self._job)
        check_machine(self._job, self._runtime)
        for number, stage in enumerate(self._stages, 1):
            self._do(number, stage)
        return self._finish(len(self._stages) + 1)

    def _is_published(self) -> bool:
        """Whether this very engine is in its place: then it is no longer in the work directory."""
        last = self._stages[-1]
        if self._state.find(last.name, last.fingerprint) is None or self._job.engine.exists():
            return False
        try:
            there = (self._job.output / MANIFEST_FILE).read_bytes()
            return there == (self._job.work / MANIFEST_FILE).read_bytes()
        except OSError:
            return False

    def _do(self, number: int, stage: Stage) -> None:
        done = self._state.find(stage.name, stage.fingerprint)
        log = self._job.work / f"{number}-{stage.name}.log" if stage.argv else None
        self._progress.begin(number, stage.name, None if done else log)
        if done is not None and stage.result.exists():
            self._seconds[stage.name] = done.seconds
            self._progress.end(done.seconds, "is done already, it took")
            return
        # Everything behind this stage rests on it.
        self._state.forget(later.name for later in self._stages[number - 1 :])
        begun = time.monotonic()
        _remove(stage.clears)
        self._act(stage, log)
        seconds = round(time.monotonic() - begun, 3)
        self._seconds[stage.name] = seconds
        self._state.finish(stage.name, Done(stage.fingerprint, seconds))
        self._progress.end(seconds)

    def _act(self, stage: Stage, log: Path | None) -> None:
        try:
            stage.prepare()
            if stage.argv is not None and log is not None:
                self._program(stage, log).run(self._progress)
            else:
                self._own_acts[stage.name]()
        except OSError as error:
            raise StageFailed(stage.name, diagnose(str(error), 1), log) from None
        except EngineError as error:
            if isinstance(error, StageFailed):
                raise
            raise StageFailed(stage.name, Diagnosis(str(error), "run again to resume"), log) from None
        if not stage.result.exists():
            why = f"it ended well, but left no {stage.result}"
            raise StageFailed(stage.name, Diagnosis(why, "the log tells more"), log)

    @property
    def _own_acts(self) -> dict[str, Callable[[], object]]:
        return {
            "tokenizer": lambda: copy_tokenizer(self._job.tokenizer, self._job.engine),
            "manifest": self._write_manifest,
        }

    def _program(self, stage: Stage, log: Path) -> Program:
        return Program(
            stage=stage.name,
            argv=stage.argv or (),
            work=self._job.work,
            log=log,
            lock=self._lock,
            variables=self._environment,
        )

    def _write_manifest(self) -> None:
        job = self._job
        answers = json.loads((job.work / "golden.json").read_text(encoding="utf-8"))
        route = job.chosen_route(has_timing_cache=False).name
        manifest = make_manifest(
            job.engine,
            source_of(job.model, job.revision),
            self._runtime,
            origin="built",
            model_id=job.model_id,
            golden=[Golden(a["prompt"], tuple(a["prompt_ids"]), tuple(a["ids"])) for a in answers],
            build=BuildFacts(route, round(sum(self._seconds.values()), 3), dict(self._seconds)),
        )
        write_manifest(job.engine, manifest)
        # By this copy the engine is known again when it is in its place.
        shutil.copyfile(job.engine / MANIFEST_FILE, job.work / MANIFEST_FILE)

    def _finish(self, number: int) -> list[Finding]:
        self._progress.begin(number, "verify", None)
        begun = time.monotonic()
        findings = self._verify(self._job.engine)
        if has_errors(findings):
            errors = "; ".join(str(f) for f in findings if f.severity == "error")
            advice = (
                f"`lodestream engine verify {self._job.engine}`; then remove {self._job.work} and build again"
            )
            raise StageFailed("verify", Diagnosis(errors, advice), None)
        self._job.engine.rename(self._job.output)
        self._progress.end(time.monotonic() - begun)
        return findings

    def _verify(self, directory: Path) -> list[Finding]:
        """The plans' hashes were made a moment ago: sizes will do."""
        findings = verify(directory, runtime=self._runtime, quick=True)
        if has_errors(findings):
            return findings
        return [*outcome.compare(self._job.plan, read_engine_config(directory)), *findings]


def _remove(path: Path | None) -> None:
    if path is None or not path.exists():
        return
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
