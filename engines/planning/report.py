"""Prints a plan for people: a bar of the memory, tables, warnings, commands."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TextIO

from engines.facts.gpus import GIB, KIB, MIB, gib
from engines.planning.memory import BLOCK_TOKENS, Memory
from engines.planning.plan import Plan, warnings
from engines.planning.recipe import Command, Paths, Route, routes
from engines.planning.speed import EXPECTED, Capacity


def report(plan: Plan, canvas: Canvas, paths: Paths | None = None) -> str:
    """Write the whole report; ends without a newline."""
    best, other = routes(plan, paths)
    total = f"Memory of one GPU, {gib(plan.memory.total)} that CUDA can use:"
    parts = [
        _heading(plan),
        f"{total}\n\n{memory_bar(plan.memory, canvas)}",
        _figures(plan),
        _capacity(plan),
        _decode(plan),
        "\n".join(f"Warning: {warning}." for warning in warnings(plan)),
        _route(best, "To build it, in the image of TensorRT-LLM 1.2.1 on such a GPU"),
        _route(other, "Or"),
    ]
    return "\n\n".join(part for part in parts if part)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _heading(plan: Plan) -> str:
    gpu, limits = plan.gpu, plan.limits
    count = f"{plan.tp} x " if plan.tp > 1 else ""
    part = f"SM {gpu.sm}, {gpu.marketed_gb} GB, {gpu.bandwidth / 1e9:,.0f} GB/s"
    paged = "on" if plan.paged_context else "off"
    lines = (
        f"{plan.model.name} on {count}{gpu.title} ({part})",
        f"weights {plan.form.name} ({_origin(plan)}), KV cache {plan.kv_cache}, paged context {paged}",
        ", ".join(f"{name} {value}" for name, value in asdict(limits).items()),
    )
    return "\n".join(lines)


def _origin(plan: Plan) -> str:
    if plan.is_prequantized:
        return "the checkpoint's own"
    return "recommended" if plan.form.name == plan.recommended else f"recommended: {plan.recommended}"


def _figures(plan: Plan) -> str:
    memory = plan.memory
    one = " a GPU" if plan.tp > 1 else ""
    rows = [
        ("parameters", f"{plan.model.parameters:,}"),
        (f"weights{one}", f"{memory.weights / 1e9:.2f} GB ({gib(memory.weights)})"),
        (f"KV cache of a token{one}", f"{memory.kv_bytes_per_token / KIB:g} KiB"),
        ("tokens in a GiB", f"{GIB // memory.kv_bytes_per_token:,}"),
        (f"block of {BLOCK_TOKENS} tokens", f"{memory.block_bytes / MIB:g} MiB"),
        ("KV pool", f"{gib(memory.kv_pool)} = {memory.blocks:,} blocks = {memory.tokens:,} tokens"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _capacity(plan: Plan) -> str:
    if not plan.capacity:
        return ""
    head = ["prompt + answer", "at once", "tokens/s at most", "expect", "limited by", "first token at least"]
    target = plan.target_tokens_per_second
    if target is not None:
        head.append(f"GPUs for {target:,}/s")
    rows = [head, *(_capacity_row(capacity) for capacity in plan.capacity)]
    low, high = (f"{share:.0%}".removesuffix("%") for share in EXPECTED)
    return (
        "Requests that fit (GUARANTEED_NO_EVICT), the roofline of serving them, and what to expect, "
        f"{low} to {high} % of it:\n\n{table(rows)}"
    )


def _capacity_row(capacity: Capacity) -> list[str]:
    low, high = capacity.expected_tokens_per_second
    row = [
        f"{capacity.prompt_tokens:,} + {capacity.output_tokens:,}",
        f"{capacity.requests:,}",
        f"{capacity.output_tokens_per_second:,.0f}",
        f"{low:,.0f} to {high:,.0f}",
        capacity.limited_by,
        f"{capacity.first_token_seconds * 1000:,.1f} ms",
    ]
    if capacity.gpus_for_target is not None:
        fewest, most = capacity.gpus_for_target
        row.append(f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}")
    return row


def _decode(plan: Plan) -> str:
    if not plan.decode:
        return ""
    rows = [("batch", "tokens/s at most", "of one request", "limited by")]
    rows += [
        (f"{d.batch:,}", f"{d.tokens_per_second:,.0f}", f"{d.tokens_per_second / d.batch:,.1f}", d.limited_by)
        for d in plan.decode
    ]
    return f"Roofline of decoding, {plan.decode[0].context:,} tokens behind each request:\n\n" + table(rows)


def _route(route: Route, opening: str) -> str:
    if route.obstacle:
        return f"No way by {route.name}: {route.obstacle}."
    steps = "\n".join("  " + wrap(command) for command in route.commands)
    text = f"{opening}, by {route.name}:\n\n{steps}"
    if route.program is None:
        return text
    file = route.commands[-1].argv[-1]
    return f"{text}\n\nwith this as {file}:\n\n{route.program.rstrip()}"


def wrap(command: Command) -> str:
    """Write a command for a shell, a flag a line."""
    lines: list[str] = []
    for word in command.argv:
        if word.startswith("--") or not lines:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += " " + shlex.quote(word)
    return " \\\n      ".join(lines)


_WIDEST = 100
_NARROWEST = 20


@dataclass(frozen=True, slots=True)
class Canvas:
    """The abilities of the output: its width, colours and characters."""

    width: int = 80
    """Columns, 20 to 100."""
    has_color: bool = False
    has_unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str] = os.environ) -> Canvas:
        """Read a stream's terminal width, its encoding, and whether to use colours.

        Colours are used on a terminal that is not `TERM=dumb`, unless NO_COLOR is set.
        """
        plain = bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
        return cls(
            width=min(max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST), _WIDEST),
            has_color=stream.isatty() and not plain,
            has_unicode=(stream.encoding or "").lower().replace("-", "").startswith("utf"),
        )


@dataclass(frozen=True, slots=True)
class _Part:
    label: str
    """With a `{}` for the size."""
    size: int
    block: str
    ascii: str
    color: int


def memory_bar(memory: Memory, canvas: Canvas) -> str:
    """Draw the bar, and below it what its parts are; no line is wider than the canvas.

    Every part that is not empty has a cell at least, and the cells add up to the width. The workspace is an
    estimate, hence the `~`.
    """
    parts = [
        _Part("weights {}", memory.weights, "█", "#", 34),
        _Part("workspace ~{}", memory.workspace, "▓", "=", 33),
        _Part("KV cache {}", memory.kv_pool, "▒", ":", 32),
        _Part("free {}", memory.left, "░", ".", 37),
    ]
    cells = share_cells([part.size for part in parts], canvas.width)
    bar = "".join(_paint(_mark(part, canvas) * n, part, canvas) for part, n in zip(parts, cells, strict=True))
    return "\n".join([bar, *_legend(parts, canvas)])


def share_cells(sizes: Sequence[int], cells: int) -> list[int]:
    """Share cells in proportion; a size above 0 gets one cell at least; the sum is `cells`."""
    total = sum(sizes)
    exact = [size * cells / total for size in sizes]
    shared = [max(int(share), 1) if size else 0 for size, share in zip(sizes, exact, strict=True)]
    while (missing := cells - sum(shared)) != 0:
        step = 1 if missing > 0 else -1
        able = [i for i, size in enumerate(sizes) if size and shared[i] + step >= 1]
        shared[max(able, key=lambda i: step * (exact[i] - shared[i]))] += step
    return shared


def _legend(parts: Sequence[_Part], canvas: Canvas) -> list[str]:
    lines: list[str] = []
    used = canvas.width
    for part in parts:
        text = f"{_mark(part, canvas)} {part.label.format(f'{part.size / GIB:.1f} GiB')}"
        painted = _paint(text[0], part, canvas) + text[1:]
        if used + 2 + len(text) > canvas.width:
            lines.append(painted)
            used = len(text)
        else:
            lines[-1] += "  " + painted
            used += 2 + len(text)
    return lines


def _mark(part: _Part, canvas: Canvas) -> str:
    return part.block if canvas.has_unicode else part.ascii


def _paint(text: str, part: _Part, canvas: Canvas) -> str:
    return f"\x1b[{part.color}m{text}\x1b[0m" if canvas.has_color and text else text
