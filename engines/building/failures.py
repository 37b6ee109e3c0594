"""Why a stage failed: known failures, recognised by what TensorRT-LLM's tools print."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

_IMAGE = "NVIDIA's release image of TensorRT-LLM 1.2.1"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why, and what to try; without full stops, so that they fit into a sentence."""

    why: str
    advice: str


# The first that matches is taken: the cause stands before what follows from it.
_KNOWN = (
    (
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        ("free space beside the output, checkpoint and engine take about twice the weights; or choose "
        "another --output"),
    ),
    (
        (r"libmpi\S*: cannot open shared object|cannot load MPI library|No module named 'mpi4py'"
        r"|mpirun: (command )?not found|ORTE was unable"),
        "MPI is missing, which TensorRT-LLM needs even for one GPU",
        f"`apt-get install libopenmpi-dev`, or build in {_IMAGE}",
    ),
    (
        r"libpython\S*: cannot open shared object",
        "this Python has no shared library, which TensorRT-LLM loads",
        f"a Python with libpython on the loader's path, or build in {_IMAGE}",
    ),
    (
        r"No module named 'tensorrt_llm'|tensorrt_llm: (command )?not found",
        "TensorRT-LLM is not installed for this Python",
        f"build in {_IMAGE}, or install tensorrt_llm==1.2.1",
    ),
    (
        (r"No CUDA GPUs are available|Found no NVIDIA driver|CUDA driver initialization failed"
        r"|no CUDA-capable device|libcuda\.so\S*: cannot open shared object"),
        "there is no GPU that CUDA can use",
        "a machine with the planned GPU; in a container `--gpus all`; see that nvidia-smi works",
    ),
    (
        r"CUDA driver version is insufficient|forward compatibility was attempted",
        "the driver is too old for this CUDA",
        "a newer driver, or the cuda-compat package of CUDA 13.1",
    ),
    (
        (r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|cudaErrorMemoryAllocation"
        r"|Cuda Runtime \(out of memory\)|CUDA Runtime API.*out of memory"),
        "the GPU ran out of memory",
        ("end what else runs on the GPU; a smaller --max-batch-size, --max-num-tokens or --max-seq-len; a "
        "checkpoint that is quantised already; or more GPUs with --tp"),
    ),
    (
        r"KeyError: 'type'|`rope_scaling` must be a dictionary with two fields",
        "the rope_scaling of Llama 3.1 is not understood: transformers is too old",
        f"transformers==4.57.3, as TensorRT-LLM 1.2.1 wants it, or build in {_IMAGE}",
    ),
    (
        (r"cannot import name .* from 'transformers|No module named 'transformers|module 'transformers"
        r"|AttributeError: .*transformers"),
        "the wrong version of transformers is installed",
        f"transformers==4.57.3, as TensorRT-LLM 1.2.1 wants it, or build in {_IMAGE}",
    ),
    (
        r"can't open file .*(convert_checkpoint|quantize)\.py",
        "the scripts of TensorRT-LLM's examples are not there",
        "--examples DIR, the directory `examples` of the source tree of TensorRT-LLM 1.2.1",
    ),
    (
        (r"Couldn't reach|LocalEntryNotFoundError|ConnectionError|Max retries exceeded|DatasetNotFoundError"
        r"|OfflineModeIsEnabled"),
        "the data set for calibration cannot be fetched",
        ("--calib-dataset DIR, a local directory with a split `train` and a column `text`; or a checkpoint "
        "that is quantised already"),
    ),
    (
        r"KeyError: '(article|text)'|Column '?(article|text)'? (not in|doesn't exist)",
        "the calibration data has another column than is read",
        ("--calib-dataset DIR with a split `train` and a column `text`; a path with cnn_dailymail in it is "
        "read as that set, with its column `article`"),
    ),
    (
        r"not supported on SM|NotImplementedError.*SM ?\d+|unsupported architecture",
        "the builder does not support this format on this GPU",
        "another --quantization; `lodestream engine plan` recommends one",
    ),
)  # fmt: skip


def diagnose(log: str, status: int) -> Diagnosis:
    """Say why a program failed.

    Args:
        log: what it printed, or the end of that.
        status: its exit status; negative: the signal that ended it.

    """
    for pattern, why, advice in _KNOWN:
        if re.search(pattern, log):
            return Diagnosis(why, advice)
    if status == -signal.SIGKILL:
        return Diagnosis(
            "it was killed, most likely as the machine ran out of memory",
            "more memory; for a container a higher limit; --tp splits the work over processes",
        )
    if status < 0:
        return Diagnosis(f"it was ended by signal {-status}", "the last lines of its log tell more")
    return Diagnosis(_last_words(log) or f"exit status {status}", "the log tells more; run again to resume")


def _last_words(log: str) -> str:
    """The last line that names an error, as tracebacks do near their end; else the last that is not empty."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or [""])[-1][:200].rstrip(".")
