"""`lodestream engine build`."""

from __future__ import annotations

import shutil
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lodestream.engine_directory import print_findings
from lodestream.parser import CommandParser
from lodestream.plan_flags import LLAMA, add_plan_flags, make_plan
from lodestream_common.errors import OperatorError, SettingError

if TYPE_CHECKING:
    from engines.building.job import Job


_MODEL = (
    "checkpoint directory, Hugging Face's (quantised or not) or TensorRT-LLM's; with --dry-run also "
    "llama-3.1-8b, which needs none"
)


def build(arguments: Sequence[str]) -> int:
    """Build an engine on this machine, or tell what that would be.

    Returns:
        0. A build that cannot begin or fails is an OperatorError: one line on stderr, exit status 1.

    """
    parser = CommandParser(
        "engine build",
        "Builds a TensorRT-LLM engine on the machine with the GPU: runs the commands of the plan one by one, "
        "adds tokenizer, golden answers and manifest.json, and verifies the result. Run again, it goes on "
        "where it ended. Logs and everything in between are beside the output, in DIR-build.",
        {},
        [
            "lodestream engine build --gpu l4 --model ./Llama-3.1-8B-Instruct --output ./engine",
            "lodestream engine build --gpu h100 --model ./Llama-3.1-8B-Instruct-FP8 --dry-run",
        ],
        operands="--gpu NAME --model DIR [--output DIR] [--FLAG VALUE ...] [--dry-run]",
    )
    add_plan_flags(parser, model=_MODEL)
    _add_build_flags(parser)
    parsed = parser.parse(arguments)
    from engines.building.job import BuildError

    try:
        job = _job(parsed)
        return _dry_run(job, as_json=parsed.json) if parsed.dry_run else _build(job)
    except BuildError as error:
        raise OperatorError(str(error), error.details) from None


def _add_build_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        default=Path("engine"),
        metavar="DIR",
        help="engine directory [default: engine]",
    )
    add(
        "--route",
        choices=("trtllm-build", "llm-api"),
        help="[default: llm-api for checkpoints that modelopt quantised, else trtllm-build]",
    )
    add(
        "--examples",
        type=Path,
        default=Path("examples"),
        metavar="DIR",
        help="`examples` of TensorRT-LLM's source tree, for trtllm-build [default: examples]",
    )
    add("--tokenizer", type=Path, metavar="DIR", help="the model's tokenizer [default: --model]")
    add(
        "--calib-dataset",
        metavar="NAME|DIR",
        help="what quantising calibrates with; a local directory has a split `train` with a column `text`, "
        "or `article` where its path holds cnn_dailymail [default: cnn_dailymail, which needs the network]",
    )
    add("--model-id", metavar="NAME", help="serve under this name [default: the checkpoint's]")
    add("--revision", metavar="COMMIT", help="of the checkpoint [default: what its directory says]")
    add("--dry-run", action="store_true", help="print everything that would be run, and run nothing")
    add("--json", action="store_true", help="with --dry-run: a JSON object instead of text")


def _job(parsed: Namespace) -> Job:
    from engines.building.job import Job
    from engines.planning.recipe import Paths

    if parsed.json and not parsed.dry_run:
        raise SettingError("--json: goes with --dry-run only")
    _check_model(parsed)
    plan = make_plan(parsed)
    model = Path(plan.model.path or Paths().model).absolute()
    return Job(
        plan=plan,
        model=model,
        tokenizer=(parsed.tokenizer or model).absolute(),
        output=parsed.output.absolute(),
        examples=parsed.examples.absolute(),
        calib_dataset=_dataset(parsed.calib_dataset) or Paths().calib_dataset,
        route=parsed.route,
        model_id=parsed.model_id,
        revision=parsed.revision,
    )


def _check_model(parsed: Namespace) -> None:
    """Refuse what cannot be built from, with a way out that ends in a build."""
    if parsed.model is None and parsed.dry_run:
        parsed.model = LLAMA
    if parsed.dry_run or (parsed.model and Path(parsed.model).is_dir()):
        return
    found = f"{parsed.model} is no directory here" if parsed.model else "none is given"
    raise SettingError(
        f"--model: an engine is built from the files of a checkpoint, and {found}; fetch them first, for "
        "example with: hf download meta-llama/Llama-3.1-8B-Instruct --local-dir Llama-3.1-8B-Instruct, and "
        "give that directory"
    )


def _dataset(name: str | None) -> str | None:
    """Programs run elsewhere, so a local directory needs its whole path."""
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def _dry_run(job: Job, *, as_json: bool) -> int:
    from engines.building.stages import dry_run, dry_run_document

    print(dry_run_document(job) if as_json else dry_run(job))
    return 0


def _build(job: Job) -> int:
    from engines.building.build import build as run
    from engines.facts.machine import probe

    # Ended like by Ctrl-C: the running program is ended too, and the next run resumes.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        findings = run(job, probe(python=shutil.which("python3")), sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
    print_findings(findings, as_json=False)
    print(job.output)
    return 0
