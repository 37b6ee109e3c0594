"""The loaded engine: requests in, the library's errors turned into ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import structlog

from inference_service.backends.errors import BackendError, EngineDeadError, EngineRequestError
from inference_service.backends.tensorrt_llm.library import Library
from inference_service.backends.tensorrt_llm.readings import Reading, read
from inference_service.backends.tensorrt_llm.sampling import sampling_fields
from inference_service.backends.types import EngineRequest

_log = structlog.stdlib.get_logger(__name__)
_SHUTTING_DOWN = "LLM is shutting down"


class Completion(Protocol):
    """One answer, as far as it has got. The library changes it in place."""

    token_ids: Sequence[int]
    """All of them, from the first."""
    finish_reason: str | None
    """`stop`, `length`, `timeout` or `cancelled`."""
    stop_reason: int | str | None
    """The stop word that was met; None for the end id."""


class Output(Protocol):
    """A running request: an iterator over itself, one turn for each response of the engine."""

    @property
    def outputs(self) -> Sequence[Completion]: ...

    def abort(self) -> None:
        """Send the engine a message; it lets go later."""
        ...

    def __aiter__(self) -> AsyncIterator[object]: ...


class Engine:
    """A TensorRT-LLM instance. All of its requests belong to one event loop: it wakes no other."""

    def __init__(self, llm: Any, library: Library, end_ids: frozenset[int]) -> None:
        self._llm = llm
        self._library = library
        self._end_ids = end_ids
        # There is no public way to ask. Where even this is missing, the next request finds out.
        self._can_tell = hasattr(getattr(llm, "_executor", None), "is_shutdown")
        self._dead = False

    @property
    def refused(self) -> frozenset[str]:
        """Parameters that it cannot honour, by their public names."""
        return self._library.refused

    @property
    def is_alive(self) -> bool:
        """Whether it can still serve. Once False, always False."""
        self._dead = self._dead or self._has_shut_down()
        return not self._dead

    def submit(self, request: EngineRequest) -> Output:
        """Hand a request to the engine.

        Raises:
            BackendError: it takes this request, or any, no more.

        """
        fields = sampling_fields(request, self._end_ids, self._library.fields)
        try:
            output: Output = self._llm.generate_async(
                inputs={"prompt_token_ids": list(request.prompt_ids)},
                sampling_params=self._library.sampling_params(**fields),
                streaming=True,
            )
        except Exception as error:
            raise self.translate(error, request.request_id) from error
        return output

    def translate(self, error: Exception, request_id: str) -> BackendError:
        """What an exception of the library means."""
        if _SHUTTING_DOWN in str(error):
            self._dead = True
        # Without its traceback, which could show a prompt.
        _log.error("engine_error", request_id=request_id, reason=f"{type(error).__name__}: {error}"[:500])
        return self.failure("the engine failed this request")

    def failure(self, reason: str) -> BackendError:
        """What a request that came to nothing means."""
        return EngineRequestError(reason) if self.is_alive else EngineDeadError("the engine has shut down")

    async def readings(self) -> AsyncIterator[Reading]:
        """Statistics as they come; ends after a pause, until the next request."""
        async for stats in self._llm.get_stats_async(timeout=2):
            yield read(stats)

    def shutdown(self) -> None:
        """End the engine and its worker processes. Blocks."""
        self._dead = True
        self._llm.shutdown()

    def _has_shut_down(self) -> bool:
        executor = self._llm._executor if self._can_tell else None
        return self._can_tell and (executor is None or bool(executor.is_shutdown()))
