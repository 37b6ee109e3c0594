"""The loaded engine with all that stands around it, or the fact that there is none yet."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from inference_service.backends import registry
from inference_service.backends.base import Backend
from inference_service.backends.types import BackendStats
from inference_service.config import ServiceConfig
from inference_service.errors import NotReady
from inference_service.models import catalog, loader
from inference_service.models import loader as store
from inference_service.output.content_filter.output import ContentPolicy
from inference_service.request.sampling import TokenLimits
from inference_service.scheduling.admission import Admission
from inference_service.scheduling.capacity import shape_of
from inference_service.scheduling.fair_pool import FairPool
from inference_service.scheduling.served_model import ServedModel
from lodestream_common.errors import OperatorError


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A started engine, its model, the permits to use it, and the rules for what it may read and say."""

    backend: Backend
    model: ServedModel
    admission: Admission
    policy: ContentPolicy | None = None


class EngineSlot:
    """Leads to the engine room once there is one. The server listens before its engine is loaded."""

    def __init__(self) -> None:
        self._room: LoadedEngine | None = None

    def open(self, room: LoadedEngine) -> None:
        self._room = room

    def enter(self) -> LoadedEngine:
        """The engine room.

        Raises:
            NotReady: the engine is not loaded yet.

        """
        if self._room is None:
            raise NotReady("it is starting")
        return self._room

    async def close(self) -> None:
        """Close the engine, if there is one."""
        if self._room is not None:
            await self._room.backend.close()

    def stats(self) -> BackendStats:
        return self.enter().backend.stats()


async def build(config: ServiceConfig, workers: FairPool, compilers: FairPool) -> LoadedEngine:
    """Find the model, load the engine.

    Raises:
        OperatorError: something is missing, broken or unsupported.

    """
    policy = _policy(config)
    loaded = await _load(config, workers)
    backend = registry.create(config, loaded.path, loaded.tokenizer, shape_of(config, loaded))
    description = await backend.start()
    model = ServedModel(
        id=loaded.id,
        aliases=config.alias,
        tokenizer=loaded.tokenizer,
        template=loaded.chat_template,
        engine=description,
        workers=workers,
        compilers=compilers,
        limits=_token_limits(config),
    )
    admission = Admission(capacity=description.max_concurrency, queue_limit=config.queue_limit)
    return LoadedEngine(backend, model, admission, policy)


def _token_limits(config: ServiceConfig) -> TokenLimits:
    most = config.max_tokens_limit
    return TokenLimits(default=min(config.default_max_tokens, most), most=most)


def _policy(config: ServiceConfig) -> ContentPolicy | None:
    if config.content_filter_file is None:
        return None
    # What matches is loaded only where there are rules.
    from inference_service.output.content_filter.rules_file import FilePolicy

    return FilePolicy(config.content_filter_file)


async def _load(config: ServiceConfig, workers: FairPool) -> loader.LoadedModel:
    stop = threading.Event()

    def load() -> loader.LoadedModel:
        found = store.configured(config, show_progress=True, stop=stop)
        _check_aliases(config, found)
        return loader.load(found)

    try:
        return await workers.run(None, 0, load)
    finally:
        # A server that is told to end while it fetches does not wait for the rest.
        stop.set()


def _check_aliases(config: ServiceConfig, served: store.ModelFile) -> None:
    # What names the default also names the model that is served in its place.
    known = {served.id, catalog.DEFAULT_ID} if served.stands_in else {served.id}
    for name, target in config.alias.items():
        if target not in known:
            raise OperatorError(f"alias: {name}={target} names no served model; the served id is {served.id}")
