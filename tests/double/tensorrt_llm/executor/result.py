"""The result of a request: an object that is its own iterator and changes in place."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..sampling_params import SamplingParams
from .async_queue import AsyncQueue
from .utils import CppExecutorError, RequestError, running_loop


class FinishReason(Enum):
    END_ID = "stop"
    STOP_WORDS = "stop_words"
    LENGTH = "length"
    TIMED_OUT = "timeout"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Response:
    """The response of one engine step to one request."""

    client_id: int
    token_ids: tuple[int, ...] = ()
    finish: FinishReason | None = None
    log_prob: float = 0.0

    @property
    def is_final(self) -> bool:
        return self.finish is not None


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """The request failed; with `fatal` the engine failed, too."""

    client_id: int
    message: str
    fatal: bool = False


@dataclass(slots=True)
class CompletionOutput:
    """The whole output so far. Text and ids are cumulative; the `_diff` members hold the last response."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    _last_text_len: int = field(default=0, init=False, repr=False)
    _last_token_ids_len: int = field(default=0, init=False, repr=False)

    @property
    def length(self) -> int:
        return len(self.token_ids)

    @property
    def text_diff(self) -> str:
        return self.text[self._last_text_len :]

    @property
    def token_ids_diff(self) -> list[int]:
        return self.token_ids[self._last_token_ids_len :]


class RequestOutput:
    """A future, and an iterator over itself with one turn for each response of the engine."""

    def __init__(
        self,
        request_id: int,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        decode: Callable[[list[int]], str],
        abort: Callable[[int], None],
    ) -> None:
        self.request_id = request_id
        self.prompt: str | None = None
        self.prompt_token_ids = prompt_token_ids
        self.outputs = [CompletionOutput(0)]
        self.cached_tokens = 0
        """Never set: the executor of compiled engines does not report it."""
        self.decoding_iter = 0
        self.aqueue: AsyncQueue[Response | ErrorResponse] | None = None
        if running_loop() is not None:
            self.aqueue = AsyncQueue()
        self._params = params
        self._decode = decode
        self._abort = abort
        self._done = False
        self._aborted = False

    @property
    def finished(self) -> bool:
        return self._done

    def aborted(self) -> bool:
        return self._aborted

    def abort(self) -> None:
        """Ask the engine to abort; the final response comes later."""
        self._abort(self.request_id)
        self._aborted = True

    def __aiter__(self) -> RequestOutput:
        return self

    async def __anext__(self) -> RequestOutput:
        if self._done:
            raise StopAsyncIteration
        await self._step()
        return self

    async def aresult(self) -> RequestOutput:
        while not self._done:
            await self._step()
        return self

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        return self.aresult().__await__()

    async def _step(self) -> None:
        assert self.aqueue is not None, "there was no event loop when the request was made"
        self._handle(await self.aqueue.get())

    def _handle(self, response: Response | ErrorResponse) -> None:
        if isinstance(response, ErrorResponse):
            # The result is not done: iterating it further waits for ever.
            raise (CppExecutorError if response.fatal else RequestError)(response.message)
        self._done = response.is_final
        self.decoding_iter += 1
        output = self.outputs[0]
        output._last_token_ids_len = len(output.token_ids)
        output.token_ids.extend(response.token_ids)
        if self._params._return_log_probs:
            output.logprobs += [response.log_prob] * len(response.token_ids)
            output.cumulative_logprob = sum(output.logprobs)
        if response.finish is not None:
            self._finish(output, response.finish)
        if self._params.detokenize:
            output._last_text_len = len(output.text)
            output.text = self._decode(output.token_ids)

    def _finish(self, output: CompletionOutput, finish: FinishReason) -> None:
        if finish is not FinishReason.STOP_WORDS:
            output.finish_reason = finish.value
            return
        output.finish_reason = "stop"
        output.stop_reason = output.token_ids[-1]
        if not self._params.include_stop_str_in_output:
            output.token_ids = output.token_ids[:-1]
