"""Which engine is behind which name. Each creator imports its engine only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from inference_service.backends.base import Backend
from inference_service.config import ServiceConfig


class ModelTokenizer(Protocol):
    """What engines need of the model's tokenizer."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def eos_ids(self) -> frozenset[int]: ...

    def encode_text(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_bytes(self, token_id: int) -> bytes: ...


DEFAULT_CONCURRENCY = 4
"""For backends that no build has set a limit to."""

Creator = Callable[[ServiceConfig, Path, ModelTokenizer, int], Backend]


def create(config: ServiceConfig, path: Path, tokenizer: ModelTokenizer, context_length: int) -> Backend:
    """The backend that the settings name, not yet started.

    Raises:
        BackendStartError: its settings make no sense.

    """
    return _CREATORS[config.backend](config, path, tokenizer, context_length)


def _llama_cpp(config: ServiceConfig, path: Path, tokenizer: ModelTokenizer, context_length: int) -> Backend:
    from inference_service.backends.llama_cpp import LlamaCppBackend

    return LlamaCppBackend(
        path,
        tokenizer,
        context_length=context_length,
        max_concurrency=config.max_concurrency or DEFAULT_CONCURRENCY,
        threads=config.threads,
        prefill_chunk=config.prefill_chunk,
    )


def _simulated(config: ServiceConfig, _: Path, tokenizer: ModelTokenizer, context_length: int) -> Backend:
    from inference_service.backends.simulated import SimulatedBackend

    return SimulatedBackend(
        tokenizer,
        context_length=context_length,
        max_concurrency=config.max_concurrency or DEFAULT_CONCURRENCY,
        prefill_tps=config.simulated_prefill_tps,
        decode_tps=config.simulated_decode_tps,
        faults=config.simulated_fault,
    )


def _tensorrt_llm(
    config: ServiceConfig, path: Path, tokenizer: ModelTokenizer, context_length: int
) -> Backend:
    from inference_service.backends.tensorrt_llm import TensorRtLlmBackend

    return TensorRtLlmBackend(
        path, tokenizer, context_length=context_length, max_concurrency=config.max_concurrency
    )


_CREATORS: Mapping[str, Creator] = {
    "llama_cpp": _llama_cpp,
    "simulated": _simulated,
    "tensorrt_llm": _tensorrt_llm,
}
