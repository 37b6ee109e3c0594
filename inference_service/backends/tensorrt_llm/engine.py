"""Wraps the loaded engine: sends it requests and converts the library's errors to the service's."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from inference_service.backends.base import (
    BackendError,
    EngineDeadError,
    EngineGrammarError,
    EngineRequestError,
)
from inference_service.backends.tensorrt_llm.library import LOGPROBS_SWITCH, Library
from inference_service.backends.tensorrt_llm.sampling import BiasTensors, GuidedDecoding, sampling_fields
from inference_service.backends.types import EngineRequest
from inference_service.constraints.grammar import Grammar


@dataclass(frozen=True, slots=True)
class Reading:
    """The numbers of one engine step; None where this version does not tell."""

    queued: int | None = None
    """Requests that the engine has and does not work on."""
    kv_blocks_used: int | None = None
    kv_blocks_free: int | None = None


def read(stats: Mapping[str, Any]) -> Reading:
    """The numbers of one object, whose keys are those of the engine's C++ types."""
    cache = stats.get("kvCacheStats")
    cache = cache if isinstance(cache, Mapping) else {}
    return Reading(
        queued=_count(stats.get("numQueuedRequests")),
        kv_blocks_used=_count(cache.get("usedNumBlocks")),
        kv_blocks_free=_count(cache.get("freeNumBlocks")),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


_log = structlog.stdlib.get_logger(__name__)
_SHUTTING_DOWN = "LLM is shutting down"
STATISTICS_SECONDS = 0.1
"""Seconds that a read waits for statistics that the engine does not have yet."""


class Completion(Protocol):
    """One answer so far. The library changes it in place."""

    token_ids: Sequence[int]
    """All of them, from the first."""
    logprobs: Sequence[float]
    """One for each token, if requested; also for a stop word that was removed from the ids."""
    finish_reason: str | None
    """`stop`, `length`, `timeout` or `cancelled`."""
    stop_reason: int | str | None
    """The stop word that was met; None for the end id."""


class Output(Protocol):
    """A running request: an iterator over itself, one turn for each response of the engine."""

    @property
    def outputs(self) -> Sequence[Completion]: ...

    def abort(self) -> None:
        """Send the engine an abort; it releases the request later."""
        ...

    def __aiter__(self) -> AsyncIterator[object]: ...


class Engine:
    """A TensorRT-LLM instance. All of its requests belong to one event loop: it wakes no other.

    Args:
        llm: the library's own object.
        library: where it comes from.
        end_ids: tokens that end a generation, at least one.
        vocabulary_size: the engine's own.

    """

    def __init__(self, llm: Any, library: Library, end_ids: frozenset[int], vocabulary_size: int) -> None:
        self._llm = llm
        self._library = library
        self._end_ids = end_ids
        self._biases = BiasTensors(library.options.torch, vocabulary_size)
        # There is no public way to ask. Where even this is missing, the next request finds out.
        self._can_tell = hasattr(getattr(llm, "_executor", None), "is_shutdown")
        self._dead = False
        self._reading = threading.Lock()

    @property
    def refused(self) -> frozenset[str]:
        """Parameters that it cannot honour, by their public names."""
        return self._library.refused

    @property
    def is_alive(self) -> bool:
        """Whether it can still serve. Once False, always False.

        The library notices that its worker process is gone when it next has to do with it: while nothing
        runs, a dead engine is taken for a living one.
        """
        self._dead = self._dead or self._has_shut_down()
        return not self._dead

    def check_grammar(self, grammar: Grammar) -> None:
        """Find out whether the engine can read a grammar. Blocks.

        Raises:
            EngineGrammarError: it cannot.

        """
        guided = self._guided()
        try:
            guided.check(grammar)
        except Exception as error:
            # Without its text, which shows the grammar.
            _log.error("grammar_unreadable", reason=type(error).__name__)
            raise EngineGrammarError("the engine cannot read the grammar of this request") from None

    def submit(self, request: EngineRequest) -> Output:
        """Hand a request, whose grammar has passed the check, to the engine.

        Raises:
            BackendError: it takes this request, or any, no more.

        """
        try:
            output: Output = self._llm.generate_async(
                inputs={"prompt_token_ids": list(request.prompt_ids)},
                sampling_params=self._sampling_params(request),
                streaming=True,
            )
        except Exception as error:
            raise self.translate(error, request.request_id) from error
        return output

    def translate(self, error: Exception, request_id: str) -> BackendError:
        """Convert an exception of the library to the service's error."""
        if _SHUTTING_DOWN in str(error):
            self._dead = True
        # Without its traceback, which could show a prompt.
        _log.error("engine_error", request_id=request_id, reason=f"{type(error).__name__}: {error}"[:500])
        return self.failure("the engine failed this request")

    def failure(self, reason: str) -> BackendError:
        """The error of a request that failed, or of a dead engine."""
        return EngineRequestError(reason) if self.is_alive else EngineDeadError("the engine has shut down")

    def read_statistics(self) -> Reading | None:
        """The newest statistics; None: the engine made no step since they were last read.

        Blocks for `STATISTICS_SECONDS` where there are none. The library's async variant does too: it makes
        the same call inside the coroutine, and so holds up the event loop and every stream.
        """
        with self._reading:
            stats = self._llm.get_stats(timeout=STATISTICS_SECONDS)
        return read(stats[-1]) if stats else None

    def shutdown(self) -> None:
        """End the engine and its worker processes. Blocks."""
        self._dead = True
        # The library's sockets are not to be closed under a call.
        is_idle = self._reading.acquire(timeout=10 * STATISTICS_SECONDS)
        try:
            self._llm.shutdown()
        finally:
            if is_idle:
                self._reading.release()

    def _sampling_params(self, request: EngineRequest) -> Any:
        fields = sampling_fields(request, self._end_ids, self._library.fields)
        if request.logit_bias:
            fields["embedding_bias"] = self._biases.tensor(request.logit_bias)
        if request.grammar is not None:
            fields["guided_decoding"] = self._guided().params(request.grammar)
        params = self._library.sampling_params(**fields)
        if request.logprobs is not None:
            setattr(params, LOGPROBS_SWITCH, True)
        return params

    def _guided(self) -> GuidedDecoding:
        if self._library.options.guided is None:
            raise EngineGrammarError("this TensorRT-LLM takes no grammars")
        return self._library.options.guided

    def _has_shut_down(self) -> bool:
        executor = self._llm._executor if self._can_tell else None
        return self._can_tell and (executor is None or bool(executor.is_shutdown()))
