"""How many requests run at once and how long they may be, where the settings leave it open."""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from inference_service.backends.registry import Shape
from inference_service.config import ServiceConfig
from inference_service.models.loader import LoadedModel
from lodestream_common.errors import OperatorError
from lodestream_common.machine import usable_memory

CONTEXT_LENGTH = 8192
"""The default, of models that were made for more: the embedded engine reserves memory for all of it."""
SLOTS = 2
"""The embedded engine's default. More would not make a laptop faster, and each costs memory."""
SIMULATED_SLOTS = 4
OWN_BYTES = 260 << 20
"""What the service holds beside weights and KV cache: tokenizer, grammars, libraries, buffers; measured."""

_LADDER = ((SLOTS, CONTEXT_LENGTH), (SLOTS, 4096), (1, 4096), (1, 2048), (1, 1024))
"""Shapes, largest first; the first that fits into memory is the default."""

_log = structlog.get_logger(__name__)


def shape_of(config: ServiceConfig, model: LoadedModel) -> Shape:
    """What the settings say, and where they do not, what suits the model and the memory that is free.

    Raises:
        OperatorError: the settings want more than the model was made for.

    """
    most = model.context_length
    if config.context_length is not None and config.context_length > most:
        raise OperatorError(
            f"context_length: the model was made for {most} tokens, {config.context_length} are too many"
        )
    if config.engine is not None:
        return Shape(config.max_concurrency, config.context_length or most)
    if config.backend == "simulated":
        usual = min(most, CONTEXT_LENGTH)
        return Shape(config.max_concurrency or SIMULATED_SLOTS, config.context_length or usual)
    return _within_memory(config, model)


def _within_memory(config: ServiceConfig, model: LoadedModel) -> Shape:
    free = usable_memory()
    wanted, *smaller = _shapes(config, model.context_length)
    chosen = next((shape for shape in (wanted, *smaller) if _bytes(shape, model) <= free), None)
    if chosen is None:
        # Whether the smallest fits after all is seen when it is loaded.
        chosen = (wanted, *smaller)[-1]
    slots, context_length = chosen
    if chosen != wanted:
        _log.warning(
            "reduced to fit into memory",
            max_concurrency=slots,
            context_length=context_length,
            free_mib=free >> 20,
            wanted_mib=_bytes(wanted, model) >> 20,
        )
    return Shape(slots, context_length)


def _shapes(config: ServiceConfig, most: int) -> Iterator[tuple[int, int]]:
    """The ladder, with what somebody set in the place of the defaults."""
    for slots, length in _LADDER:
        yield config.max_concurrency or slots, config.context_length or min(most, length)


def _bytes(shape: tuple[int, int], model: LoadedModel) -> int:
    slots, context_length = shape
    return model.path.stat().st_size + slots * context_length * model.kv_bytes_per_token + OWN_BYTES
