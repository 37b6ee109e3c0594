"""Computes how fast an engine can be: the roofline, and what to expect in practice.

The roofline is the time to move the bytes or to do the arithmetic, whichever is longer; no engine is faster.
The model is that of Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for
Multicore Architectures" (Communications of the ACM 52/4, 2009). Work per token is counted as in Kaplan et
al., "Scaling Laws for Neural Language Models" (2020): two operations per weight, and attention on top; bytes
per step as in Pope et al., "Efficiently Scaling Transformer Inference" (2022): every weight once, and the
keys and values of every request.

    step of decoding, batch B, contexts of C tokens:
        bytes      = weights without embedding + B (C + 1) kv_bytes_per_token
        operations = B (2 (matrices + output) + 4 layers heads head_size C)
    prompt of P tokens, per token:
        operations = 2 matrices + 2 output / P + 2 layers heads head_size P
    seconds >= max(bytes / bandwidth, operations / peak)

Attention over a prompt is halved, as a token attends only to those before it. `tp` GPUs share bytes and
operations evenly, and communication between them is free here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engines.facts.formats import WeightFormat
from engines.facts.gpus import Gpu
from engines.facts.models import ModelConfig
from engines.planning.choices import check_shape
from engines.planning.memory import Limits, Memory, kv_bytes_per_token, weight_bytes

LENGTHS = ((128, 128), (1000, 1000), (2048, 128), (2048, 2048), (5000, 500), (20_000, 2000))
"""Prompt and answer tokens of the capacity table, where none are requested."""
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


def shapes(requested: Sequence[tuple[int, int]] | None, limits: Limits) -> tuple[tuple[int, int], ...]:
    """Choose the lengths of the capacity table: the requested ones, else common ones that fit.

    Raises:
        PlanRefused: the engine would not take a request of that length.

    """
    if requested is None:
        return tuple(shape for shape in LENGTHS if sum(shape) <= limits.max_seq_len)
    for prompt, output in requested:
        check_shape(prompt, output, limits)
    return tuple(requested)


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


@dataclass(frozen=True, slots=True)
class Bound:
    """At most so fast."""

    tokens_per_second: float
    limited_by: Literal["memory", "compute"]


@dataclass(frozen=True, slots=True)
class Roofline:
    """The bounds of one engine on `tp` GPUs of one kind."""

    model: ModelConfig
    form: WeightFormat
    kv_cache: str
    gpu: Gpu
    tp: int = 1

    def decode(self, batch: int, context: int) -> Bound:
        """Tokens a second, over all of `batch` requests that have `context` tokens behind them."""
        return _slower_bound(
            self._step_bytes(batch, context) / batch, self._decode_seconds(context), self.gpu
        )

    def prefill(self, prompt: int) -> Bound:
        """Prompt tokens a second, for prompts of `prompt` tokens."""
        return _slower_bound(0.0, self._prefill_seconds(prompt), self.gpu)

    def first_token_seconds(self, prompt: int) -> float:
        """What one prompt that runs alone takes at least, to its first token."""
        weights = weight_bytes(self.model, self.form, self.tp) - 2 * self.model.embedding_parameters
        return max(weights / self.gpu.bandwidth, prompt * self._prefill_seconds(prompt))

    def serve(self, batch: int, prompt: int, output: int) -> Bound:
        """Output tokens a second, when `batch` requests of that shape run all the time.

        Prefill and decoding share steps, so one may use the arithmetic while the other waits for memory.
        """
        reading = self._step_bytes(batch, prompt + output // 2) / batch
        computing = self._decode_seconds(prompt + output // 2) + prompt / output * self._prefill_seconds(
            prompt
        )
        return _slower_bound(reading, computing, self.gpu)

    def _step_bytes(self, batch: int, context: int) -> float:
        embedding = 2 * self.model.embedding_parameters
        weights = weight_bytes(self.model, self.form, self.tp) - embedding
        return weights + batch * (context + 1) * kv_bytes_per_token(self.model, self.kv_cache, self.tp)

    def _decode_seconds(self, context: int) -> float:
        output = 2 * self.model.embedding_parameters
        attention = 4 * self._attention_size * context
        return (
            self._matrix_seconds + (output / self.gpu.peaks.bf16 + attention / self._attention_peak) / self.tp
        )

    def _prefill_seconds(self, prompt: int) -> float:
        output = 2 * self.model.embedding_parameters / prompt
        attention = 2 * self._attention_size * prompt
        return (
            self._matrix_seconds + (output / self.gpu.peaks.bf16 + attention / self._attention_peak) / self.tp
        )

    @property
    def _matrix_seconds(self) -> float:
        """Of one token, in all matrices of all layers."""
        plain = self.model.excluded_parameters if self.form.is_quantized else 0
        quantized = self.model.linear_parameters - plain
        peaks = self.gpu.peaks
        return (2 * quantized / peaks.of(self.form.arithmetic) + 2 * plain / peaks.bf16) / self.tp

    @property
    def _attention_size(self) -> int:
        return self.model.layers * self.model.heads * self.model.head_size

    @property
    def _attention_peak(self) -> float:
        return self.gpu.peaks.of("fp8" if self.kv_cache == "fp8" else "bf16")


def _slower_bound(bytes_per_token: float, seconds_per_token: float, gpu: Gpu) -> Bound:
    reading = bytes_per_token / gpu.bandwidth
    slower = max(reading, seconds_per_token)
    return Bound(1 / slower, "memory" if reading > seconds_per_token else "compute")
