"""A plan for people: what goes where, how fast at best, and what to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict

from engines.advice import warnings
from engines.capacity import EXPECTED, Capacity
from engines.memory import BLOCK_TOKENS
from engines.memory_bar import Canvas, memory_bar
from engines.plan import Plan
from engines.recipe import Command, Paths, Route, routes
from engines.units import GIB, KIB, MIB, gib


def report(plan: Plan, canvas: Canvas, paths: Paths | None = None) -> str:
    """Write the whole report; ends without a newline."""
    best, other = routes(plan, paths)
    total = f"Memory of one GPU, {gib(plan.memory.total)} that CUDA can use:"
    parts = [
        _head(plan),
        f"{total}\n\n{memory_bar(plan.memory, canvas)}",
        _figures(plan),
        _capacity(plan),
        _decode(plan),
        "\n".join(f"Warning: {said}." for said in warnings(plan)),
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


def _head(plan: Plan) -> str:
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
