"""Describes one build: its inputs, outputs and route; and checks the machine before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.errors import EngineError
from engines.facts.gpus import gib
from engines.facts.machine import Runtime
from engines.facts.tokenizer_files import TokenizerUnreadableError, read_tokenizer
from engines.facts.toolchain import Diagnosis
from engines.planning.plan import Plan
from engines.planning.recipe import Paths, Route, routes
from engines.verification.checks import SUPPORTED, is_supported


class BuildError(EngineError):
    """Expected: the operator has to change something. The message is one line."""


class BuildRefused(BuildError):
    """Expected: the build cannot begin."""


class StageFailed(BuildError):
    """Expected: a stage ended badly; the next run begins with it.

    Args:
        stage: its name.
        diagnosis: why, and what to try.
        log: everything that it printed; None where it prints nothing.

    """

    def __init__(self, stage: str, diagnosis: Diagnosis, log: Path | None) -> None:
        where = f" Its log: {log}" if log else ""
        super().__init__(f"stage {stage} failed: {diagnosis.why}. Try: {diagnosis.advice}.{where}")
        self.stage = stage
        self.diagnosis = diagnosis
        self.log = log


PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):",
    "1, 2, 3, 4, 5,",
    "Übermorgen fahren wir nach",
)
"""Prompts whose answers are recorded right after the build."""
GOLDEN_TOKENS = 32
"""Tokens of each answer that are recorded, at most."""


@dataclass(frozen=True, slots=True)
class Job:
    """One build. Paths are absolute."""

    plan: Plan
    model: Path
    """The checkpoint."""
    tokenizer: Path
    """Directory of the tokenizer's files: for Hugging Face checkpoints the same."""
    output: Path
    """The path of the finished and verified engine directory."""
    examples: Path
    """The `examples` directory of TensorRT-LLM's source tree."""
    calib_dataset: str = Paths().calib_dataset
    route: str | None = None
    """`trtllm-build` or `llm-api`; None: the recommended one."""
    model_id: str | None = None
    revision: str | None = None

    @property
    def work(self) -> Path:
        """Everything in between, beside the output: logs, the converted checkpoint, timings."""
        return self.output.with_name(self.output.name + "-build")

    @property
    def engine(self) -> Path:
        """The engine, until it is finished."""
        return self.work / "engine"

    @property
    def checkpoint(self) -> Path:
        return self.work / "checkpoint"

    @property
    def timing_cache(self) -> Path:
        return self.work / "model.cache"

    @property
    def program(self) -> Path:
        return self.work / "build_engine.py"

    def chosen_route(self, *, has_timing_cache: bool) -> Route:
        """The route of this build, with its commands.

        Raises:
            BuildRefused: it cannot be taken for this plan.

        """
        paths = Paths(
            model=str(self.model),
            checkpoint=str(self.checkpoint),
            engine=str(self.engine),
            examples=str(self.examples),
            program=str(self.program),
            timing_cache=str(self.timing_cache),
            has_timing_cache=has_timing_cache,
            calib_dataset=self.calib_dataset,
        )
        ways = routes(self.plan, paths)
        way = next((way for way in ways if way.name == self.route), ways[0])
        if way.obstacle:
            raise BuildRefused(f"the route {way.name} is closed: {way.obstacle}")
        return way


def check_inputs(job: Job) -> None:
    """Refuse a checkpoint without tokenizer, and directories that hold something else.

    Raises:
        BuildRefused: names the directory and the flag.

    """
    try:
        read_tokenizer(job.tokenizer)
    except TokenizerUnreadableError as error:
        raise BuildRefused(f"{job.tokenizer}: {error}; give --tokenizer DIR with the model's own") from None
    if job.work.exists() and any(job.work.iterdir()) and not (job.work / "lock").exists():
        raise BuildRefused(f"{job.work} holds something that is no build: give another --output")


def check_output(job: Job) -> None:
    """Refuse to write over anything.

    Raises:
        BuildRefused: there is something where the engine is to go.

    """
    if job.output.exists() and (not job.output.is_dir() or any(job.output.iterdir())):
        raise BuildRefused(f"{job.output} is there already: remove it, or give another --output")


_MIN_MEMORY_SHARE = 0.95
"""Of what the plan counts with: the driver may keep a little more than on other machines."""


def check_machine(job: Job, runtime: Runtime) -> None:
    """Refuse a machine that is not the planned one. What cannot be detected is left to the stages.

    Raises:
        BuildRefused: version, architecture, number or memory of GPUs are others.

    """
    version, planned = runtime.tensorrt_llm, job.plan.gpu
    if version is not None and not is_supported(version):
        raise BuildRefused(f"TensorRT-LLM {version} is installed; engines are built with {SUPPORTED}")
    if runtime.gpus and len(runtime.gpus) < job.plan.tp:
        raise BuildRefused(f"--tp {job.plan.tp}: this machine has {len(runtime.gpus)} GPUs")
    for gpu in runtime.gpus[: job.plan.tp]:
        if gpu.sm != planned.sm:
            raise BuildRefused(
                f"--gpu {planned.name} is SM {planned.sm}, but here is {gpu.name}, SM {gpu.sm}: an engine "
                "runs on the architecture that it was built on only"
            )
        if gpu.memory_bytes < _MIN_MEMORY_SHARE * planned.usable_bytes:
            raise BuildRefused(
                f"--gpu {planned.name} has {gib(planned.usable_bytes)}, but here is {gpu.name} with "
                f"{gib(gpu.memory_bytes)}"
            )
