"""Follows one request inside the engine, and finds what is new in its cumulative output."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from inference_service.backends.base import BackendError
from inference_service.backends.tensorrt_llm.engine import Completion, Engine, Output
from inference_service.backends.types import EngineFinish, EngineStep, TokenLogprob
from lodestream_common.pacing import Pause

_log = structlog.stdlib.get_logger(__name__)

ABORT_SECONDS = 30.0
"""Seconds until an aborted request that the engine has not released counts as lost."""

_FAILURES = {
    "timeout": "the engine ran out of time for this request",
    "cancelled": "the engine cancelled this request",
}


class TensorRtLlmRequest:
    """Follows a request until it ends in the engine, even if nothing reads its output.

    The library's queue of responses has no bound. This class empties it as fast as the engine fills it; the
    ids go into the library's own list, which `max_tokens` bounds. A slow reader gets more ids in one step.

    Args:
        request_id: for the log.
        output: the request, just submitted.
        cursor: reads it.
        with_logprobs: whether they are requested.
        engine: that it runs in.
        on_response: called at each response of the engine.
        on_released: called once, when the engine has released the request.

    """

    def __init__(
        self,
        request_id: str,
        output: Output,
        cursor: OutputCursor,
        *,
        with_logprobs: bool,
        engine: Engine,
        on_response: Callable[[], None],
        on_released: Callable[[TensorRtLlmRequest], None],
    ) -> None:
        self._request_id = request_id
        self._output = output
        self._cursor = cursor
        self._with_logprobs = with_logprobs
        self._engine = engine
        self._on_response = on_response
        self._on_released = on_released
        self._changed = asyncio.Event()
        self._gathering = Pause()
        self._error: BackendError | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._follower = asyncio.create_task(self._follow(), name=f"tensorrt_llm-{request_id}")
        self._follower.add_done_callback(self._on_follower_done)

    @property
    def is_aborting(self) -> bool:
        """Aborted, and still in the engine."""
        return self._abort_timer is not None and not self._follower.done()

    async def next_step(self, gather: float = 0.0) -> EngineStep:
        """Wait for tokens, and take all that are ready.

        Args:
            gather: seconds to wait in any case, unless the request ends.

        Raises:
            BackendError: the request failed.

        """
        await self._gathering.wait(gather)
        while True:
            self._changed.clear()
            completion = self._output.outputs[0]
            if completion.finish_reason is not None:
                return self._last_step(completion)
            if self._cursor.has_new(completion.token_ids):
                first = self._cursor.taken
                return self._step(completion, first, self._cursor.take(completion.token_ids))
            if self._error is not None:
                raise self._error
            await self._changed.wait()

    def abort(self) -> None:
        """Abort the request in the engine, and wait for its end in the background. No effect once ended."""
        ended = self._follower.done() or self._output.outputs[0].finish_reason is not None
        if ended or self._abort_timer is not None:
            return
        self._abort_timer = asyncio.get_running_loop().call_later(ABORT_SECONDS, self._give_up)
        try:
            self._output.abort()
        except Exception as error:
            self._engine.translate(error, self._request_id)

    def fail(self, error: BackendError) -> None:
        """End the request with this error, unless it has one already. Sends nothing to the engine."""
        self._error = self._error or error
        self._follower.cancel()
        self._gathering.end()
        self._changed.set()

    async def wait_released(self) -> None:
        """Wait until the task that follows the request has ended."""
        await asyncio.wait([self._follower])

    async def _follow(self) -> None:
        try:
            async for _ in self._output:
                self._on_response()
                if self._output.outputs[0].finish_reason is not None:
                    self._gathering.end()
                self._changed.set()
        except Exception as error:
            # Another iteration after an error would wait for ever.
            self._error = self._engine.translate(error, self._request_id)

    def _on_follower_done(self, _: asyncio.Task[None]) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        if self._error is None and self._output.outputs[0].finish_reason is None:
            self._error = self._engine.failure("the engine dropped this request")
        self._gathering.end()
        self._changed.set()
        self._on_released(self)

    def _give_up(self) -> None:
        _log.warning("abort_unanswered", request_id=self._request_id, seconds=ABORT_SECONDS)
        self._follower.cancel()

    def _last_step(self, completion: Completion) -> EngineStep:
        reason, ids, first = completion.finish_reason, completion.token_ids, self._cursor.taken
        if reason == "stop":
            fresh = self._cursor.take_ended(ids, completion.stop_reason)
            return self._step(completion, first, fresh, EngineFinish.END_OF_SEQUENCE)
        if reason == "length":
            return self._step(completion, first, self._cursor.take_cut(ids), EngineFinish.MAX_TOKENS)
        raise self._engine.failure(_FAILURES.get(str(reason), f"the engine ended with {reason!r}"))

    def _step(
        self, completion: Completion, first: int, ids: list[int], finish: EngineFinish | None = None
    ) -> EngineStep:
        # `cached_tokens` of the output is 0 on the compiled path, whatever was reused: it is unknown.
        logprobs = self._logprobs(completion, first, ids) if self._with_logprobs else ()
        return EngineStep(ids, len(ids), None, finish, logprobs=logprobs)

    def _logprobs(self, completion: Completion, first: int, ids: list[int]) -> Sequence[TokenLogprob]:
        """Those of `ids`, the first of which is the output's `first`.

        The engine reports that of an end of sequence only where it is a stop word, not the end id.
        """
        values = (completion.logprobs or ())[first : first + len(ids)]
        shown = min(len(ids), len(completion.token_ids) - first)
        if len(values) < shown:
            raise self._engine.failure("the engine gave no log probabilities for some tokens")
        return [TokenLogprob(token_id, float(value)) for token_id, value in zip(ids, values, strict=False)]


class OutputCursor:
    """Reads each id once from a list that grows between two reads, and may shrink before the last one.

    The engine removes a stop word from its output with the final response, and never reports the end id. So
    an end of sequence at the tail is not read until the engine has finished; it is the last id of the last
    step.

    Args:
        end_ids: tokens that end the generation; none where the request ignores them.
        end_id: the one of them that the engine does not show.

    """

    def __init__(self, end_ids: frozenset[int], end_id: int) -> None:
        self._end_ids = end_ids
        self._end_id = end_id
        self._taken = 0

    @property
    def taken(self) -> int:
        """The number of ids that were read."""
        return self._taken

    def has_new(self, ids: Sequence[int]) -> bool:
        """Whether `take` would give anything."""
        return self._settled(ids) > self._taken

    def take(self, ids: Sequence[int]) -> list[int]:
        """The new ids of an output that continues."""
        return self._upto(ids, self._settled(ids))

    def take_cut(self, ids: Sequence[int]) -> list[int]:
        """The new ids of an output that ended for its length."""
        return self._upto(ids, len(ids))

    def take_ended(self, ids: Sequence[int], stop_reason: int | str | None) -> list[int]:
        """The new ids of an output that ended by itself, the end of sequence last."""
        end = self._end_id
        if isinstance(stop_reason, int):
            end = stop_reason
        elif ids and ids[-1] in self._end_ids:
            end = ids[-1]
        settled = len(ids) - (bool(ids) and ids[-1] == end)
        return [*self._upto(ids, settled), end]

    def _settled(self, ids: Sequence[int]) -> int:
        return len(ids) - (bool(ids) and ids[-1] in self._end_ids)

    def _upto(self, ids: Sequence[int], end: int) -> list[int]:
        fresh = list(ids[self._taken : end])
        self._taken = max(self._taken, end)
        return fresh
