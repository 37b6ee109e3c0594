"""Implements the backend interface with llama.cpp."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Set
from functools import partial
from pathlib import Path
from typing import TypeVar

from inference_service.backends.base import Backend, BackendStartError, EngineDeadError, Steps, off_loop
from inference_service.backends.llama_cpp.grammar import AnswerReader, GrammarChecker
from inference_service.backends.llama_cpp.loading import EngineSettings, load_engine
from inference_service.backends.llama_cpp.request import (
    Engine,
    EngineProgress,
    LlamaCppRequest,
    LoopWaker,
    PrefillScheduler,
)
from inference_service.backends.llama_cpp.sampling import completion_body
from inference_service.backends.llama_cpp.steps import (
    LogprobLookup,
    ModelTokenizer,
    StepBuffer,
    TokenIdFinder,
)
from inference_service.backends.types import BackendDescription, BackendStats, EngineRequest
from inference_service.constraints.grammar import Grammar

RELEASE_SECONDS = 10.0
"""Seconds that closing waits until the engine has released its requests."""

Result = TypeVar("Result")


class LlamaCppBackend(Backend):
    """Runs a GGUF model in this process.

    Penalties are llama.cpp's, see `sampling.py` for what that means. A request that is not
    `reproducible` may find the beginning of its prompt in the KV cache.

    Args:
        model_path: a GGUF file.
        tokenizer: the model's; names the ids of characters that span tokens.
        context_length: most tokens of one request, 1 or more; memory for all of them is reserved in
            every slot.
        max_concurrency: slots, range [1, 256].
        threads: threads that compute; 0 is one for each core.
        prefill_chunk: prompt tokens that each step of the engine can take, 1 or more. The engine releases an
            aborted request at the end of a step.

    """

    def __init__(
        self,
        model_path: Path,
        tokenizer: ModelTokenizer,
        *,
        context_length: int,
        max_concurrency: int,
        threads: int,
        prefill_chunk: int,
    ) -> None:
        self._settings = EngineSettings(model_path, context_length, max_concurrency, threads, prefill_chunk)
        self._tokenizer = tokenizer
        self._id_finder = TokenIdFinder(tokenizer)
        self._grammars = GrammarChecker()
        self._prefills: PrefillScheduler[LlamaCppRequest] = PrefillScheduler(
            slots=max_concurrency, batch_tokens=self._settings.batch_tokens
        )
        self._progress = EngineProgress()
        self._waker: LoopWaker | None = None
        self._engine: list[Engine] = []
        """The engine while there is one."""
        self._closed = False
        # Also runs when this object is dropped, and at interpreter exit.
        self._release = weakref.finalize(self, _free, self._engine, self._prefills.inside)

    async def start(self) -> BackendDescription:
        engine = await _off_loop(partial(load_engine, self._settings))
        if self._closed:
            raise BackendStartError("the engine was closed while it was loading")
        self._waker = LoopWaker()
        self._engine.append(engine)
        return BackendDescription(
            name="llama_cpp",
            context_length=self._settings.context_length,
            max_concurrency=self._settings.slots,
            vocabulary_size=self._tokenizer.vocabulary_size,
        )

    def check_grammar(self, grammar: Grammar) -> None:
        self._grammars.check(grammar)

    async def generate(self, request: EngineRequest) -> Steps:
        if request.grammar is not None:
            await _off_loop(partial(self._grammars.check, request.grammar))
        call = self._call(request)
        lookup = self._lookup(request)
        reader = None if request.grammar is None else AnswerReader(request.grammar)
        await self._prefills.enter(call)
        try:
            if len(self._prefills.inside) == 1:
                self._progress.touch()
            call.start()
            finished, gather = False, None
            while not finished:
                step = await call.next_step(gather or 0.0)
                finished = step.finish is not None
                if reader is not None:
                    reader.read(step.text or "")
                gather = yield step if lookup is None else await lookup.complete(step)
        finally:
            call.abort()
            self._on_change(call)

    def stats(self) -> BackendStats:
        inside = self._prefills.inside
        return BackendStats(
            running=len(inside),
            aborts_pending=sum(call.is_aborting for call in inside),
            alive=bool(self._engine) and not self._closed,
            last_step_age=self._progress.age if inside else 0.0,
        )

    async def close(self) -> None:
        self._closed = True
        dead = EngineDeadError("the engine is closed")
        self._prefills.refuse_all(dead)
        for call in self._prefills.inside:
            call.fail(dead)
        await _off_loop(self._release)
        if self._waker is not None:
            self._waker.close()

    def _call(self, request: EngineRequest) -> LlamaCppRequest:
        if self._closed or not self._engine or self._waker is None:
            raise EngineDeadError("the engine is not running")
        return LlamaCppRequest(
            self._engine[0],
            self._progress,
            self._waker,
            request_id=request.request_id,
            body=completion_body(request, self._settings.context_length, end_ids=self._tokenizer.eos_ids),
            steps=StepBuffer(self._id_finder, request.max_tokens, request.logprobs),
            prefill_left=len(request.prompt_ids),
            on_change=self._on_change,
        )

    def _lookup(self, request: EngineRequest) -> LogprobLookup | None:
        if request.logprobs is None:
            return None
        return LogprobLookup(self.generate, self._tokenizer, request, request.logprobs)

    def _on_change(self, call: LlamaCppRequest) -> None:
        if call.is_inside:
            self._prefills.advance()
        else:
            self._prefills.leave(call)


def _free(engine: list[Engine], inside: Set[LlamaCppRequest]) -> None:
    """Abort what runs, wait for it, and free the engine.

    A call that does not return in time still references the engine and so keeps it alive.
    """
    calls = list(inside)
    for call in calls:
        call.abort()
    deadline = time.monotonic() + RELEASE_SECONDS
    for call in calls:
        call.join(deadline - time.monotonic())
    engine.clear()


async def _off_loop(work: Callable[[], Result]) -> Result:
    # The interpreter waits for the thread: llama.cpp must not load or free a model while the process exits.
    return await off_loop(work, thread_name="llama_cpp", is_daemon=False)
