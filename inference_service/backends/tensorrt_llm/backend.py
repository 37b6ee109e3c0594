"""Implements the backend interface with TensorRT-LLM."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from inference_service.backends.base import Backend, BackendStartError, EngineDeadError, Steps, off_loop
from inference_service.backends.tensorrt_llm.engine import (
    Engine,
    EngineStatistics,
    ExpectedEngine,
    check_directory,
    load_engine,
)
from inference_service.backends.tensorrt_llm.request import OutputCursor, TensorRtLlmRequest
from inference_service.backends.tensorrt_llm.sampling import MAX_TOP_K, first_end_id
from inference_service.backends.types import BackendDescription, BackendStats, EngineRequest
from inference_service.constraints.grammar import Grammar

_log = structlog.stdlib.get_logger(__name__)

Result = TypeVar("Result")

SHUTDOWN_SECONDS = 60.0
"""Seconds that closing waits for the engine's worker processes."""
WATCH_SECONDS = 0.2
"""Seconds between two checks that the engine lives: a dead engine does not notify those who wait for it."""
STATISTICS_PAUSE_SECONDS = 0.2
"""Between two readings of the engine's statistics."""


class ModelTokenizer(Protocol):
    """The part of the tokenizer that the backend uses."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def eos_ids(self) -> frozenset[int]: ...


class TensorRtLlmBackend(Backend):
    """Serves an engine directory.

    Sampling is TensorRT-LLM's, see `sampling.py` for what that means. An aborted request keeps its slot
    until the engine has released it. Every request may find the beginning of its prompt in the KV
    cache, also one that is `reproducible`: what else is in its batch moves the last bits anyway.

    Args:
        directory: what an engine build wrote.
        tokenizer: the model's; its end tokens are sent with every request.
        context_length: most tokens of one request, within the engine's limits.
        max_concurrency: requests at once; None: as many as the engine was built for.

    """

    def __init__(
        self,
        directory: Path,
        tokenizer: ModelTokenizer,
        *,
        context_length: int,
        max_concurrency: int | None = None,
    ) -> None:
        self._directory = directory
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._max_concurrency = max_concurrency
        self._engine: Engine | None = None
        self._closed = False
        self._calls: set[TensorRtLlmRequest] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._submitted = asyncio.Event()
        self._reading = EngineStatistics()
        self._last_response = time.monotonic()

    async def start(self) -> BackendDescription:
        if not self._tokenizer.eos_ids:
            raise BackendStartError(
                f"no token ends a generation of {self._directory}: put the model's generation_config.json "
                "beside the engine"
            )
        expected = ExpectedEngine(self._context_length, self._max_concurrency)
        config = await _off_loop(partial(check_directory, self._directory, expected))
        engine = await _off_loop(partial(load_engine, self._directory, config, self._tokenizer.eos_ids))
        if self._closed:
            await _shut_down(engine)
            raise BackendStartError("the engine was closed while it was loading")
        self._engine = engine
        self._tasks = [
            asyncio.create_task(self._watch(engine), name="tensorrt_llm-watch"),
            asyncio.create_task(self._read_statistics(engine), name="tensorrt_llm-statistics"),
        ]
        return BackendDescription(
            name="tensorrt_llm",
            context_length=self._context_length,
            max_concurrency=self._max_concurrency or config.limits.max_batch_size,
            vocabulary_size=self._tokenizer.vocabulary_size,
            refused=engine.refused,
            ceilings={"top_k": MAX_TOP_K},
        )

    def check_grammar(self, grammar: Grammar) -> None:
        if self._engine is not None:
            self._engine.check_grammar(grammar)

    async def generate(self, request: EngineRequest) -> Steps:
        if request.grammar is not None:
            await _off_loop(partial(self.check_grammar, request.grammar))
        call = self._enter(request)
        try:
            finished, gather = False, None
            while not finished:
                step = await call.next_step(gather or 0.0)
                finished = step.finish is not None
                gather = yield step
        finally:
            call.abort()

    def stats(self) -> BackendStats:
        running = len(self._calls)
        return BackendStats(
            running=running,
            aborts_pending=sum(call.is_aborting for call in self._calls),
            alive=self._engine is not None and self._engine.is_alive,
            last_step_age=time.monotonic() - self._last_response if running else 0.0,
            waiting=self._reading.queued,
            kv_blocks_used=self._reading.kv_blocks_used,
            kv_blocks_free=self._reading.kv_blocks_free,
        )

    async def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._fail_all("the engine is closed")
        if self._engine is not None:
            await _shut_down(self._engine)

    def _enter(self, request: EngineRequest) -> TensorRtLlmRequest:
        if self._engine is None or not self._engine.is_alive:
            raise EngineDeadError("the engine is not running")
        end_ids = self._tokenizer.eos_ids
        output = self._engine.submit(request)
        call = TensorRtLlmRequest(
            request.request_id,
            output,
            OutputCursor(frozenset() if request.ignore_eos else end_ids, first_end_id(end_ids)),
            with_logprobs=request.logprobs is not None,
            engine=self._engine,
            on_response=self._beat,
            on_released=self._calls.discard,
        )
        if not self._calls:
            self._beat()
        self._calls.add(call)
        self._submitted.set()
        return call

    def _beat(self) -> None:
        self._last_response = time.monotonic()

    async def _watch(self, engine: Engine) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not engine.is_alive:
                await self._fail_all("the engine has shut down")
                return

    async def _read_statistics(self, engine: Engine) -> None:
        while True:
            await self._submitted.wait()
            self._submitted.clear()
            try:
                await self._follow_statistics(engine)
            except Exception as error:
                _log.warning("no_statistics", reason=f"{type(error).__name__}: {error}"[:300])
                return

    async def _follow_statistics(self, engine: Engine) -> None:
        """Read until the engine has stopped making steps."""
        while True:
            reading = await _off_loop(engine.read_statistics)
            if reading is not None:
                self._reading = reading
            elif not self._calls:
                return
            await asyncio.sleep(STATISTICS_PAUSE_SECONDS)

    async def _fail_all(self, reason: str) -> None:
        calls = tuple(self._calls)
        for call in calls:
            call.fail(EngineDeadError(reason))
        for call in calls:
            await call.wait_released()


async def _shut_down(engine: Engine) -> None:
    """End the engine, but wait for at most SHUTDOWN_SECONDS."""
    try:
        await asyncio.wait_for(_off_loop(engine.shutdown), SHUTDOWN_SECONDS)
    except TimeoutError:
        _log.error("shutdown_unanswered", seconds=SHUTDOWN_SECONDS)
    except Exception as error:
        _log.error("shutdown_failed", reason=f"{type(error).__name__}: {error}"[:300])


async def _off_loop(work: Callable[[], Result]) -> Result:
    # The library may never return from a call; the process must be able to exit all the same.
    return await off_loop(work, thread_name="tensorrt_llm", is_daemon=True)
