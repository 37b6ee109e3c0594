"""How many requests an engine takes at once, and how fast it can be with them at best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engines.checks import check_shape
from engines.memory import Limits, Memory
from engines.roofline import Roofline

LENGTHS = ((128, 128), (1000, 1000), (2048, 128), (2048, 2048), (5000, 500), (20_000, 2000))
"""Prompt and answer tokens of the capacity table, where nobody asks for others."""
EXPECTED = (0.40, 0.65)
"""Of the roofline, what serving reaches: NVIDIA's published runs of Llama-3.1-8B in FP8 on an H100, beside
the ceilings computed here (128 + 128: 43 %, 1000 + 1000: 52 %, 2048 + 2048: 65 %, 5000 + 500: 40 %)."""
_BATCHES = (1, 4, 16, 64, 256, 1024)


@dataclass(frozen=True, slots=True)
class Capacity:
    """Requests of one shape, on all GPUs of the engine."""

    prompt_tokens: int
    output_tokens: int
    requests: int
    """How many run at once: as many as the KV pool holds at full length, at most max_batch_size."""
    output_tokens_per_second: float
    """No engine is faster, over all requests."""
    limited_by: str
    """`memory` bandwidth or `compute`."""
    first_token_seconds: float
    """No engine is faster, for one prompt alone."""
    expected_tokens_per_second: tuple[float, float]
    """What to expect in practice, over all requests: 40 and 65 % of the ceiling."""
    gpus_for_target: tuple[int, int] | None
    """GPUs that the target takes, in the better and in the worse case; None without a target."""


@dataclass(frozen=True, slots=True)
class Decode:
    """Decoding at one batch size."""

    batch: int
    context: int
    """Tokens behind each request."""
    tokens_per_second: float
    """No engine is faster, over all requests."""
    limited_by: str


def shapes(asked: Sequence[tuple[int, int]] | None, limits: Limits) -> tuple[tuple[int, int], ...]:
    """Choose the prompt and answer lengths to tell of: those asked for, else common ones that are allowed.

    Raises:
        PlanRefused: the engine would not take a request of that length.

    """
    if asked is None:
        return tuple(shape for shape in LENGTHS if sum(shape) <= limits.max_seq_len)
    for prompt, output in asked:
        check_shape(prompt, output, limits)
    return tuple(asked)


def serving(
    roof: Roofline, memory: Memory, limits: Limits, shape: tuple[int, int], target: int | None
) -> Capacity:
    """How many requests of one shape run at once, how fast at best, and what to expect.

    `target` is in output tokens a second, over all engines that share the load.
    """
    prompt, output = shape
    requests = min(memory.requests(prompt + output), limits.max_batch_size)
    bound = roof.serve(requests, prompt, output)
    low, high = (share * bound.tokens_per_second for share in EXPECTED)
    return Capacity(
        prompt,
        output,
        requests,
        bound.tokens_per_second,
        bound.limited_by,
        roof.first_token_seconds(prompt),
        (low, high),
        None if target is None else (_gpus(target, high, roof.tp), _gpus(target, low, roof.tp)),
    )


def _gpus(target: int, speed: float, tp: int) -> int:
    """GPUs of as many whole engines as together reach the target."""
    return math.ceil(target / speed) * tp


def decoding(roof: Roofline, memory: Memory, limits: Limits, context: int) -> tuple[Decode, ...]:
    """How fast decoding is at best, from one request to as many as fit with that context."""
    most = min(limits.max_batch_size, memory.requests(context + 1))
    batches = [batch for batch in _BATCHES if batch < most] + [most]
    bounds = [(batch, roof.decode(batch, context)) for batch in batches]
    return tuple(Decode(batch, context, b.tokens_per_second, b.limited_by) for batch, b in bounds)


def usual_context(shapes: Sequence[tuple[int, int]], limits: Limits) -> int:
    """Tokens behind a request in mid-answer: of the one shape there is, else 1000 where that is allowed."""
    if len(shapes) == 1:
        prompt, output = shapes[0]
        return prompt + output // 2
    return min(1000, limits.max_seq_len // 2)
