"""Maps backend names to their creators. A creator imports its engine only when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from inference_service.backends.base import Backend
from inference_service.config import ServiceConfig


class ModelTokenizer(Protocol):
    """The part of the tokenizer that engines need."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def eos_ids(self) -> frozenset[int]: ...

    def encode_text(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_bytes(self, token_id: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Shape:
    """The settings with which an engine is loaded."""

    slots: int | None
    """Requests that run at once; None: as many as a compiled engine was built for."""
    context_length: int
    """Most tokens of each, prompt and output together."""


Creator = Callable[[ServiceConfig, Path, ModelTokenizer, Shape], Backend]


def create(config: ServiceConfig, path: Path, tokenizer: ModelTokenizer, shape: Shape) -> Backend:
    """The backend that the settings name, not yet started.

    Raises:
        BackendStartError: its settings make no sense.

    """
    return _CREATORS[config.backend](config, path, tokenizer, shape)


def _llama_cpp(config: ServiceConfig, path: Path, tokenizer: ModelTokenizer, shape: Shape) -> Backend:
    from inference_service.backends.llama_cpp.backend import LlamaCppBackend

    return LlamaCppBackend(
        path,
        tokenizer,
        context_length=shape.context_length,
        max_concurrency=shape.slots or 1,
        threads=config.threads,
        prefill_chunk=config.prefill_chunk,
    )


def _simulated(config: ServiceConfig, _: Path, tokenizer: ModelTokenizer, shape: Shape) -> Backend:
    from inference_service.backends.simulated.backend import SimulatedBackend

    return SimulatedBackend(
        tokenizer,
        context_length=shape.context_length,
        max_concurrency=shape.slots or 1,
        prefill_tps=config.simulated_prefill_tps,
        decode_tps=config.simulated_decode_tps,
        token_cost=config.simulated_token_cost_us * 1e-6,
        faults=config.simulated_fault,
    )


def _tensorrt_llm(config: ServiceConfig, path: Path, tokenizer: ModelTokenizer, shape: Shape) -> Backend:
    from inference_service.backends.tensorrt_llm.backend import TensorRtLlmBackend

    return TensorRtLlmBackend(
        path, tokenizer, context_length=shape.context_length, max_concurrency=shape.slots
    )


_CREATORS: Mapping[str, Creator] = {
    "llama_cpp": _llama_cpp,
    "simulated": _simulated,
    "tensorrt_llm": _tensorrt_llm,
}
