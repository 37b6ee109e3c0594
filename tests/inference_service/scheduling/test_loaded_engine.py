"""The default number and context length of the embedded engine's slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference_service.backends.registry import Shape
from inference_service.config import ServiceConfig
from inference_service.models.loader import LoadedModel
from inference_service.scheduling import loaded_engine
from inference_service.scheduling.loaded_engine import shape_of
from lodestream_common.errors import OperatorError
from tests.support.service import running_service

MIB = 1 << 20


@pytest.mark.parametrize(
    ("free_mib", "settings", "shape"),
    [
        (16_000, {}, Shape(2, 8192)),
        # 94 MiB of weights, 260 of its own, and 45 KiB for each token of context.
        (700, {}, Shape(2, 4096)),
        (460, {}, Shape(1, 4096)),
        (410, {}, Shape(1, 2048)),
        (10, {}, Shape(1, 1024)),
        # Explicit settings are never changed.
        (10, {"max_concurrency": 3}, Shape(3, 1024)),
        (10, {"context_length": 8000}, Shape(1, 8000)),
        (10, {"max_concurrency": 3, "context_length": 8000}, Shape(3, 8000)),
        (10, {"backend": "simulated"}, Shape(4, 8192)),
    ],
)
def test_default_slots_fit_into_the_free_memory(
    free_mib: int,
    settings: dict[str, Any],
    shape: Shape,
    loaded_model: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loaded_engine, "usable_memory", lambda: free_mib * MIB)

    assert shape_of(ServiceConfig(**settings), loaded_model) == shape


def test_the_limits_of_a_compiled_engine_are_its_own(loaded_model: LoadedModel) -> None:
    assert shape_of(ServiceConfig(engine=Path("/engine")), loaded_model) == Shape(None, 8192)


def test_a_context_beyond_the_model_is_refused(loaded_model: LoadedModel) -> None:
    with pytest.raises(OperatorError, match="made for 8192 tokens, 8193 are too many"):
        shape_of(ServiceConfig(context_length=8193), loaded_model)


def test_the_memory_of_a_token_is_computed_from_the_file(loaded_model: LoadedModel) -> None:
    """The model has 30 layers with 3 heads of 64 numbers, for keys and values, at 2 bytes each."""
    assert loaded_model.kv_bytes_per_token == 30 * 3 * 64 * 2 * 2


async def test_the_service_starts_with_the_reduced_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_engine, "usable_memory", lambda: 10 * MIB)
    async with running_service(backend="llama_cpp", threads=1) as service:
        engine = service.loaded.model.engine

    assert (engine.max_concurrency, engine.context_length) == (1, 1024)
