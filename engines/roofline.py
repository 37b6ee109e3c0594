"""Speed that no engine exceeds: the time to move the bytes, or to do the arithmetic, whichever is longer.

The roofline model is that of Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance
Model for Multicore Architectures" (Communications of the ACM 52/4, 2009). Work per token is counted as in
Kaplan et al., "Scaling Laws for Neural Language Models" (2020): two operations per weight, and attention
on top; bytes per step as in Pope et al., "Efficiently Scaling Transformer Inference" (2022): every weight
once, and the keys and values of every request.

    step of decoding, batch B, contexts of C tokens:
        bytes      = weights without embedding + B (C + 1) kv_bytes_per_token
        operations = B (2 (matrices + output) + 4 layers heads head_size C)
    prompt of P tokens, per token:
        operations = 2 matrices + 2 output / P + 2 layers heads head_size P
    seconds >= max(bytes / bandwidth, operations / peak)

Attention over a prompt is halved, as a token sees only those before it. `tp` GPUs share bytes and operations
evenly, and talking to each other costs nothing here. A real engine reaches some part of these bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engines.gpus import Gpu
from engines.memory import kv_bytes_per_token, weight_bytes
from engines.model_config import ModelConfig
from engines.quantization import WeightFormat


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
        return _bound(self._step_bytes(batch, context) / batch, self._decode_seconds(context), self.gpu)

    def prefill(self, prompt: int) -> Bound:
        """Prompt tokens a second, for prompts of `prompt` tokens."""
        return _bound(0.0, self._prefill_seconds(prompt), self.gpu)

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
        return _bound(reading, computing, self.gpu)

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


def _bound(bytes_per_token: float, seconds_per_token: float, gpu: Gpu) -> Bound:
    reading = bytes_per_token / gpu.bandwidth
    slower = max(reading, seconds_per_token)
    return Bound(1 / slower, "memory" if reading > seconds_per_token else "compute")
