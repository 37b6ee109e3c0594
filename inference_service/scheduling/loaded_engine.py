"""Loads the engine with its model, and holds it for the requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from inference_service.backends import registry
from inference_service.backends.base import Backend
from inference_service.backends.registry import Shape
from inference_service.backends.types import BackendDescription, BackendStats
from inference_service.config import ServiceConfig
from inference_service.errors import NotReady
from inference_service.models import catalog, loader
from inference_service.output.content_filter.output import ContentPolicy
from inference_service.request.options import TokenLimits
from inference_service.scheduling.admission import Admission, AdmissionControl
from inference_service.scheduling.served_model import ServedModel
from inference_service.scheduling.workers import FairPool
from lodestream_common.errors import OperatorError
from lodestream_common.machine import usable_memory

CONTEXT_LENGTH = 8192
"""Default limit of the context in tokens. The embedded engine reserves memory for the whole context."""
SLOTS = 2
"""Default concurrency of the embedded engine. More slots cost memory, and a laptop is no faster with them."""
SIMULATED_SLOTS = 4
OWN_BYTES = 260 << 20
"""Memory of the service beside weights and KV cache: tokenizer, grammars, libraries, buffers; measured."""

_DEFAULTS = ((SLOTS, CONTEXT_LENGTH), (SLOTS, 4096), (1, 4096), (1, 2048), (1, 1024))
"""Default slots and context lengths, largest first; the first that fits into memory is used."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A started engine, its model, the admission to it, and the content filter."""

    backend: Backend
    model: ServedModel
    admission: AdmissionControl
    policy: ContentPolicy | None = None


class EngineSlot:
    """Holds the loaded engine once there is one. The server listens before its engine is loaded."""

    def __init__(self) -> None:
        self._loaded: LoadedEngine | None = None

    def fill(self, loaded: LoadedEngine) -> None:
        """Make the engine available to requests."""
        self._loaded = loaded

    @property
    def loaded(self) -> LoadedEngine:
        """The loaded engine.

        Raises:
            NotReady: the engine is not loaded yet.

        """
        if self._loaded is None:
            raise NotReady("it is starting")
        return self._loaded

    async def close(self) -> None:
        """Close the engine, if there is one."""
        if self._loaded is not None:
            await self._loaded.backend.close()

    @property
    def is_filled(self) -> bool:
        """Whether the engine is loaded."""
        return self._loaded is not None

    def stats(self) -> BackendStats:
        """Read the engine's state."""
        return self.loaded.backend.stats()


async def build(config: ServiceConfig, workers: FairPool, compilers: FairPool) -> LoadedEngine:
    """Find the model, and load the engine.

    Raises:
        OperatorError: something is missing, broken or unsupported.

    """
    policy = policy_of(config)
    loaded = await load_model(config, workers)
    started = await start(config, loaded)
    model = served_model(config, loaded, started.facts, workers, compilers)
    return LoadedEngine(started.backend, model, started.admission, policy)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The facts about a started engine, beside its model."""

    path: Path
    """The path of the model, a file or a directory."""
    model_id: str
    description: BackendDescription
    created: int
    """Seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class StartedEngine:
    """A started engine without the parts that read requests."""

    backend: Backend
    admission: Admission
    facts: EngineFacts


async def start(config: ServiceConfig, loaded: loader.LoadedModel) -> StartedEngine:
    """Start the engine of a model.

    Raises:
        OperatorError: the engine cannot be loaded.

    """
    backend = registry.create(config, loaded.path, loaded.tokenizer, shape_of(config, loaded))
    description = await backend.start()
    admission = Admission(capacity=description.max_concurrency, queue_limit=config.queue_limit)
    facts = EngineFacts(loaded.path, loaded.id, description, int(time.time()))
    return StartedEngine(backend, admission, facts)


def served_model(
    config: ServiceConfig,
    loaded: loader.LoadedModel,
    facts: EngineFacts,
    workers: FairPool,
    compilers: FairPool,
) -> ServedModel:
    """The model as requests see it."""
    most = config.max_tokens_limit
    return ServedModel(
        id=loaded.id,
        aliases=config.alias,
        tokenizer=loaded.tokenizer,
        template=loaded.chat_template,
        engine=facts.description,
        workers=workers,
        compilers=compilers,
        limits=TokenLimits(default=min(config.default_max_tokens, most), most=most),
        created=facts.created,
    )


def policy_of(config: ServiceConfig) -> ContentPolicy | None:
    """The content filter of the settings; None: there is none.

    Raises:
        OperatorError: its rules cannot be read.

    """
    if config.content_filter_file is None:
        return None
    # The matching library is loaded only where there are rules.
    from inference_service.output.content_filter.rules_file import FilePolicy

    return FilePolicy(config.content_filter_file)


async def load_model(config: ServiceConfig, workers: FairPool) -> loader.LoadedModel:
    """Find the model, fetch it if need be, and read it.

    Raises:
        OperatorError: something is missing, broken or unsupported.

    """
    stop = threading.Event()

    def load() -> loader.LoadedModel:
        found = loader.configured(config, show_progress=True, stop=stop)
        _check_aliases(config, found)
        return loader.load(found)

    try:
        return await workers.run(None, 0, load)
    finally:
        # A server that is stopped during a download does not wait for the rest.
        stop.set()


def _check_aliases(config: ServiceConfig, served: loader.ModelFile) -> None:
    # An alias of the default model is also valid for the model that stands in for it.
    known = {served.id, catalog.DEFAULT_ID} if served.fallback_reason else {served.id}
    for name, target in config.alias.items():
        if target not in known:
            raise OperatorError(f"alias: {name}={target} names no served model; the served id is {served.id}")


def shape_of(config: ServiceConfig, model: loader.LoadedModel) -> Shape:
    """Slots and context length: from the settings, or else what suits the model and the free memory.

    Raises:
        OperatorError: the context length of the settings exceeds the model's.

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


def _within_memory(config: ServiceConfig, model: loader.LoadedModel) -> Shape:
    free = usable_memory()
    largest, *smaller = _shapes(config, model.context_length)
    chosen = next((shape for shape in (largest, *smaller) if _bytes(shape, model) <= free), None)
    if chosen is None:
        # The estimate may be too high: try the smallest, and let loading fail.
        chosen = (largest, *smaller)[-1]
    slots, context_length = chosen
    if chosen != largest:
        _log.warning(
            "capacity_reduced",
            max_concurrency=slots,
            context_length=context_length,
            free_mib=free >> 20,
            wanted_mib=_bytes(largest, model) >> 20,
        )
    return Shape(slots, context_length)


def _shapes(config: ServiceConfig, most: int) -> Iterator[tuple[int, int]]:
    """The defaults, with the settings of the operator in their place."""
    for slots, length in _DEFAULTS:
        yield config.max_concurrency or slots, config.context_length or min(most, length)


def _bytes(shape: tuple[int, int], model: loader.LoadedModel) -> int:
    slots, context_length = shape
    return model.path.stat().st_size + slots * context_length * model.kv_bytes_per_token + OWN_BYTES
