"""The commands `lodestream engine plan` and `engine build`, and the flags of both."""

from __future__ import annotations

import shutil
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lodestream.engine_directory import print_findings
from lodestream.parser import CommandParser
from lodestream_common.errors import OperatorError, SettingError

if TYPE_CHECKING:
    from engines.building.job import Job
    from engines.errors import PlanRefused
    from engines.planning.plan import Plan


def plan(arguments: Sequence[str]) -> int:
    """Print a plan, as text or as JSON.

    Returns:
        0. A refused plan raises SettingError: one line on stderr, exit status 2, nothing on stdout.

    """
    parser = CommandParser(
        "engine plan",
        "Plans a TensorRT-LLM engine for a GPU, on any machine: memory use, how many requests fit, "
        "the highest possible speed, and the commands that build it. A plan that cannot be built is refused "
        "with the reason in one line, and exit status 2.",
        {},
        [
            "lodestream engine plan --gpu l4",
            "lodestream engine plan --gpu h100 --model ./Llama-3.1-8B-Instruct-FP8 --max-seq-len 16384",
            "lodestream engine plan --gpu a10 --input-len 1500 --output-len 300 --json",
        ],
        operands="--gpu NAME [--model DIR] [--FLAG VALUE ...] [--json]",
    )
    add_plan_flags(parser)
    parser.add_argument(
        "--output", default="engine", metavar="DIR", help="engine directory in the commands [default: engine]"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object instead of text")
    parsed = parser.parse(arguments)
    from engines.planning import document, report
    from engines.planning.recipe import Paths
    from engines.planning.report import Canvas

    made = make_plan(parsed)
    paths = Paths(model=made.model.path or Paths().model, engine=parsed.output)
    print(document.to_json(made, paths) if parsed.json else report.report(made, Canvas.of(sys.stdout), paths))
    return 0


LLAMA = "llama-3.1-8b"
"""The model that can be planned without its files."""
_MODEL_FLAG = (
    f"checkpoint directory, Hugging Face's (quantised or not) or TensorRT-LLM's [default: {LLAMA}, which "
    "needs no directory]"
)


def add_plan_flags(parser: ArgumentParser, model: str = "") -> None:
    """Add the flags that `make_plan` reads.

    Args:
        parser: the parser of the command.
        model: the help of a --model without default; empty: --model defaults to the model without files.

    """
    from engines.facts.formats import FORMATS, KV_BYTES
    from engines.facts.gpus import GPUS

    add = parser.add_argument
    add("--gpu", required=True, metavar="NAME", help="one of " + ", ".join(gpu.name for gpu in GPUS))
    add(
        "--model",
        default=None if model else LLAMA,
        metavar=f"DIR|{LLAMA}",
        help=model or _MODEL_FLAG,
    )
    add(
        "--quantization",
        metavar="FORMAT",
        help=f"of the weights: {', '.join(FORMATS)} [default: the checkpoint's, else the GPU's best]",
    )
    add("--kv-cache", metavar="FORMAT", help=f"{', '.join(KV_BYTES)} [default: fp8 where it costs nothing]")
    _add_number(parser, "--tp", "GPUs that share the engine [default: 1]", default=1)
    _add_number(parser, "--max-batch-size", "requests that run at once [default: 512 or 256]")
    _add_number(parser, "--max-seq-len", "tokens of a request, prompt and answer [default: 8192]")
    _add_number(parser, "--max-num-tokens", "tokens of a step, over all requests [default: 8192]")
    add(
        "--memory-fraction",
        type=_fraction,
        default=0.9,
        metavar="X",
        help="of the memory free after loading, for the KV cache; above 0, at most 1 [default: 0.9]",
    )
    add(
        "--no-paged-context",
        action="store_true",
        help="no KV reuse and no chunked prefill, as an INT8 KV cache requires",
    )
    _add_number(parser, "--input-len", "prompt tokens, for the table of requests; with --output-len")
    _add_number(parser, "--output-len", "answer tokens, for the table of requests; with --input-len")
    _add_number(
        parser,
        "--target-tokens-per-second",
        "output tokens a second of all requests: how many GPUs they need",
    )


def make_plan(parsed: Namespace) -> Plan:
    """Make the plan for the flags.

    Raises:
        SettingError: the plan is refused; the message has the flag, the value and the reason.

    """
    from engines.errors import PlanRefused
    from engines.planning.plan import plan

    try:
        return plan(
            parsed.model,
            parsed.gpu,
            parsed.quantization,
            parsed.kv_cache,
            parsed.tp,
            max_batch_size=parsed.max_batch_size,
            max_seq_len=parsed.max_seq_len,
            max_num_tokens=parsed.max_num_tokens,
            paged_context=not parsed.no_paged_context,
            memory_fraction=parsed.memory_fraction,
            lengths=_lengths(parsed),
            target_tokens_per_second=parsed.target_tokens_per_second,
        )
    except PlanRefused as refused:
        raise SettingError(_as_typed(refused)) from None


def _add_number(parser: ArgumentParser, flag: str, about: str, default: int | None = None) -> None:
    parser.add_argument(flag, type=_whole, default=default, metavar="N", help=about)


def _lengths(parsed: Namespace) -> list[tuple[int, int]] | None:
    if parsed.input_len is None and parsed.output_len is None:
        return None
    if parsed.input_len is None or parsed.output_len is None:
        raise SettingError("--input-len and --output-len: give both, or neither")
    return [(parsed.input_len, parsed.output_len)]


def _as_typed(refused: PlanRefused) -> str:
    """Write the flag as typed, in place of the parameter's name."""
    if refused.field == "lengths":
        return f"--input-len + --output-len {refused.found}: {refused.reason}"
    if not refused.field.isidentifier():
        return str(refused)
    return f"--{refused.field.replace('_', '-')} {refused.found}: {refused.reason}"


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _fraction(text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise ArgumentTypeError(f"{text!r} is not a number above 0, at most 1")
    return fraction


_MODEL = (
    "checkpoint directory, Hugging Face's (quantised or not) or TensorRT-LLM's; with --dry-run also "
    "llama-3.1-8b, which needs no directory"
)


def build(arguments: Sequence[str]) -> int:
    """Build an engine on this machine, or print how it would be built.

    Returns:
        0. A build that cannot begin, or fails, raises OperatorError: one line on stderr, exit status 1.

    """
    parser = CommandParser(
        "engine build",
        "Builds a TensorRT-LLM engine on the machine with the GPU: runs the commands of the plan one by one, "
        "adds tokenizer, golden answers and manifest.json, and verifies the result. A second run continues "
        "where the first one ended. Logs and intermediate files are beside the output, in DIR-build.",
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
        help="data set for the calibration of a quantisation; a local directory has a split `train` with a "
        "column `text`, or `article` if its path contains cnn_dailymail [default: cnn_dailymail, which needs "
        "the network]",
    )
    add("--model-id", metavar="NAME", help="serve under this name [default: the checkpoint's]")
    add("--revision", metavar="COMMIT", help="of the checkpoint [default: what its directory says]")
    add("--dry-run", action="store_true", help="print the commands without running them")
    add("--json", action="store_true", help="with --dry-run: a JSON object instead of text")


def _job(parsed: Namespace) -> Job:
    from engines.building.job import Job
    from engines.planning.recipe import Paths

    if parsed.json and not parsed.dry_run:
        raise SettingError("--json: only with --dry-run")
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
    """Check that there are files to build from; the error says how to get them."""
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
    """Make a local directory absolute, since the programs run in another one."""
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def _dry_run(job: Job, *, as_json: bool) -> int:
    from engines.building.stages import dry_run, dry_run_document

    print(dry_run_document(job) if as_json else dry_run(job))
    return 0


def _build(job: Job) -> int:
    from engines.building.build import build as run
    from engines.facts.machine import probe

    # SIGTERM ends the build as Ctrl-C does: the running program ends too, and the next run resumes.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        findings = run(job, probe(python=shutil.which("python3")), sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
    print_findings(findings, as_json=False)
    print(job.output)
    return 0
