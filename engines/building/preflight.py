"""What stands in the way of a build, told before hours are spent on it."""

from __future__ import annotations

from engines.building.errors import BuildRefused
from engines.building.job import Job
from engines.runtime import Runtime
from engines.tokenizer_files import TokenizerUnreadableError, read_tokenizer
from engines.units import gib
from engines.verification.config import SUPPORTED, is_supported

_LEAST_MEMORY = 0.95
"""Of what the plan counts with: the driver may keep a little more than on other machines."""


def check_files(job: Job) -> None:
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


def check_machine(job: Job, runtime: Runtime) -> None:
    """Refuse a machine that is not the planned one. What cannot be told is left to the stages themselves.

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
        if gpu.memory_bytes < _LEAST_MEMORY * planned.usable_bytes:
            raise BuildRefused(
                f"--gpu {planned.name} has {gib(planned.usable_bytes)}, but here is {gpu.name} with "
                f"{gib(gpu.memory_bytes)}"
            )
