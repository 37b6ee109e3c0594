"""The flags that say which engine: shared by the commands that plan or build one."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from lodestream_common.errors import SettingError

if TYPE_CHECKING:
    from engines.errors import PlanRefused
    from engines.planning.plan import Plan


LLAMA = "llama-3.1-8b"
"""The model that is planned without any files of it."""
_MODEL = (
    f"checkpoint directory, Hugging Face's (quantised or not) or TensorRT-LLM's [default: {LLAMA}, which "
    "needs no directory]"
)


def add_plan_flags(parser: ArgumentParser, model: str = "") -> None:
    """Add what `make_plan` reads.

    Args:
        parser: gets the flags.
        model: the help of --model where it has no default; empty: it is the model that needs no files.

    """
    from engines.facts.formats import FORMATS, KV_BYTES
    from engines.facts.gpus import GPUS

    add = parser.add_argument
    add("--gpu", required=True, metavar="NAME", help="one of " + ", ".join(gpu.name for gpu in GPUS))
    add(
        "--model",
        default=None if model else LLAMA,
        metavar=f"DIR|{LLAMA}",
        help=model or _MODEL,
    )
    add(
        "--quantization",
        metavar="FORMAT",
        help=f"of the weights: {', '.join(FORMATS)} [default: the checkpoint's, else what suits the GPU]",
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
        help="do without KV reuse and chunked prefill, which an INT8 KV cache excludes",
    )
    _add_number(parser, "--input-len", "prompt tokens, for the table of requests; with --output-len")
    _add_number(parser, "--output-len", "answer tokens, for the table of requests; with --input-len")
    _add_number(
        parser, "--target-tokens-per-second", "output tokens a second in all: says how many GPUs that takes"
    )


def make_plan(parsed: Namespace) -> Plan:
    """Plan what the flags say.

    Raises:
        SettingError: the plan is refused; names the flag, the value and the reason.

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
    """Name the flag rather than the parameter."""
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
