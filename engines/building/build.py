"""Runs a build stage by stage, resumes where an earlier run ended, and publishes the result."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from engines.building.job import BuildRefused, Job, StageFailed, check_inputs, check_machine, check_output
from engines.building.programs import Program, Progress
from engines.building.record import copy_tokenizer, make_manifest, source_of
from engines.building.stages import Done, Stage, State, stages
from engines.errors import EngineError, Finding, shown
from engines.facts.engine_directory import MANIFEST_FILE, EngineConfig, read_engine_config
from engines.facts.machine import Runtime
from engines.facts.toolchain import Diagnosis, diagnose
from engines.manifest import BuildFacts, write_manifest
from engines.planning.plan import Plan
from engines.verification.verify import golden_answer, has_errors, verify


def build(
    job: Job, runtime: Runtime, stream: TextIO, environment: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Build an engine, unless exactly this one is built already.

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
    check_inputs(job)
    job.work.mkdir(parents=True, exist_ok=True)
    with lock_work_directory(job.work) as lock:
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
        self._execute(stage, log)
        seconds = round(time.monotonic() - begun, 3)
        self._seconds[stage.name] = seconds
        self._state.finish(stage.name, Done(fingerprint=stage.fingerprint, seconds=seconds))
        self._progress.end(seconds)

    def _execute(self, stage: Stage, log: Path | None) -> None:
        try:
            stage.prepare()
            if stage.argv is not None and log is not None:
                self._program(stage, log).run(self._progress)
            else:
                self._own_actions[stage.name]()
        except OSError as error:
            raise StageFailed(stage.name, diagnose(str(error), 1), log) from None
        except EngineError as error:
            if isinstance(error, StageFailed):
                raise
            raise StageFailed(stage.name, Diagnosis(str(error), "run again to resume"), log) from None
        if not stage.result.exists():
            why = f"it ended well, but left no {stage.result}"
            raise StageFailed(stage.name, Diagnosis(why, "the log has more"), log)

    @property
    def _own_actions(self) -> dict[str, Callable[[], object]]:
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
            golden=[golden_answer(answer) for answer in answers],
            build=BuildFacts(
                route=route,
                seconds=round(sum(self._seconds.values()), 3),
                stages={stage: float(seconds) for stage, seconds in self._seconds.items()},
            ),
        )
        write_manifest(job.engine, manifest)
        # This copy identifies the engine after it was moved to its place.
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
        return [*compare_with_plan(self._job.plan, read_engine_config(directory)), *findings]


def _remove(path: Path | None) -> None:
    if path is None or not path.exists():
        return
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def lock_work_directory(work: Path) -> Iterator[int]:
    """Hold the lock of a work directory.

    The descriptor goes to the programs of the build too: should this process be killed, the lock lasts until
    they have ended as well, and no other build writes into their files.

    Raises:
        BuildRefused: another process holds it.

    """
    with (work / "lock").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BuildRefused(
                f"{work} is in use by process {file.read() or '?'} or a program that it started: wait for "
                "it, or end it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


_KV_ALGOS = {"fp8": "FP8", "int8": "INT8"}


def compare_with_plan(plan: Plan, config: EngineConfig) -> Iterator[Finding]:
    """Compare a finished engine with its plan: the builder changes settings on its own.

    Another format or split is an error, another limit a warning.
    """
    quantization, limits, plugins = config.quantization, config.limits, config.plugins
    algo = None if quantization.quant_algo == "NO_QUANT" else quantization.quant_algo
    where = "pretrained_config.quantization"
    if not _is_same_algo(algo, plan.built_algo):
        yield _finding(f"{where}.quant_algo", algo, plan.built_algo, is_error=True)
    if quantization.kv_cache_quant_algo != _KV_ALGOS.get(plan.kv_cache):
        planned = _KV_ALGOS.get(plan.kv_cache)
        yield _finding(
            f"{where}.kv_cache_quant_algo", quantization.kv_cache_quant_algo, planned, is_error=True
        )
    if config.split.tp_size != plan.tp:
        yield _finding("pretrained_config.mapping.tp_size", config.split.tp_size, plan.tp, is_error=True)
    for name in ("max_batch_size", "max_seq_len", "max_num_tokens"):
        if getattr(limits, name) != getattr(plan.limits, name):
            yield _finding(f"build_config.{name}", getattr(limits, name), getattr(plan.limits, name))
    if plugins.use_paged_context_fmha != plan.paged_context:
        where = "build_config.plugin_config.use_paged_context_fmha"
        yield _finding(where, plugins.use_paged_context_fmha, plan.paged_context)


def _is_same_algo(found: str | None, planned: str | None) -> bool:
    """SmoothQuant has one format in plans and several names in engines."""
    prefix = "W8A8_SQ_"
    both_smooth = all(algo is not None and algo.startswith(prefix) for algo in (found, planned))
    return found == planned or both_smooth


def _finding(field: str, found: object, planned: object, *, is_error: bool = False) -> Finding:
    return Finding(field, shown(found), f"the plan's {shown(planned)}", "error" if is_error else "warning")
