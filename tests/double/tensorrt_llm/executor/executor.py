"""The running engine: a worker thread that steps every request and hands results to the event loop."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from ..script import Script
from ..tokenizer import Tokenizer
from .async_queue import notify_many
from .kv_cache import KvCache
from .result import ErrorResponse, RequestOutput, Response
from .sequence import Request, Sequence

_LEAST_PAUSE = 0.0005
MAX_STATS = 1000


@dataclass(frozen=True, slots=True)
class Cancel:
    """The message of an abort."""

    id: int


class Executor:
    """Receives requests and aborts as messages, and steps at most `max_batch_size` requests at a time."""

    def __init__(
        self,
        script: Script,
        tokenizer: Tokenizer,
        cache: KvCache,
        *,
        max_batch_size: int,
        max_num_tokens: int,
        max_seq_len: int,
    ) -> None:
        self._script = script
        self._tokenizer = tokenizer
        self._cache = cache
        self._max_batch_size = max_batch_size
        self._max_num_tokens = max_num_tokens
        self._max_prompt = max_seq_len - 1
        self._results: dict[int, RequestOutput] = {}
        self._inbox: deque[Request | Cancel] = deque()
        self._mail = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}
        self._stopping = False
        self._iteration = 0
        self._last_id = 0
        self._thread: threading.Thread | None = None
        self._completed = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stats: deque[str] = deque(maxlen=MAX_STATS)
        self._has_stats = threading.Condition()

    def is_shutdown(self) -> bool:
        return self._stopping

    def submit(self, request: Request) -> RequestOutput:
        """Put a request into the worker's inbox; it has no bound."""
        if self._loop is None or self._loop.is_closed():
            # Only the event loop of the first request is ever woken.
            self._loop = asyncio.get_running_loop()
        self._last_id += 1
        request = replace(request, id=self._last_id)
        result = RequestOutput(
            request.id,
            list(request.prompt_ids),
            request.params,
            decode=self._tokenizer.decode,
            abort=self.abort_request,
        )
        self._results[request.id] = result
        self._send(request)
        self._start_thread()
        return result

    def abort_request(self, request_id: int) -> None:
        """Put an abort into the worker's inbox. It has no effect on a finished request."""
        if request_id in self._results:
            self._send(Cancel(request_id))

    def take_stats(self, timeout: float) -> list[dict[str, Any]]:
        """Take the statistics since the last call. Blocks the calling thread until there are some."""
        with self._has_stats:
            self._has_stats.wait_for(lambda: bool(self._stats), timeout)
            taken = [json.loads(reading) for reading in self._stats]
            self._stats.clear()
        return taken

    def shutdown(self) -> None:
        """Abort all requests and end the worker. Readers that wait for results are not woken."""
        self._send(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _send(self, message: Request | Cancel | None) -> None:
        with self._mail:
            if message is None:
                self._stopping = True
            else:
                self._inbox.append(message)
            self._mail.notify()

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="proxy_dispatch_result_thread", daemon=True
            )
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._mail:
                self._mail.wait_for(lambda: self._stopping or bool(self._inbox), self._pause())
                messages = list(self._inbox)
                self._inbox.clear()
            if self._stopping:
                return
            failures = [error for message in messages if (error := self._receive(message))]
            self._schedule()
            responses = [*failures, *self._iterate()]
            self._dispatch(responses)
            with self._has_stats:
                self._stats.append(json.dumps(self._reading()))
                self._has_stats.notify()

    def _pause(self) -> float | None:
        """Seconds until the next step is due; None: until a message arrives."""
        if not self._running:
            return None
        due = min(sequence.wakes_at for sequence in self._running.values())
        return None if math.isinf(due) else max(due - time.monotonic(), _LEAST_PAUSE)

    def _receive(self, message: Request | Cancel) -> ErrorResponse | None:
        if isinstance(message, Cancel):
            self._cancel(message.id)
            return None
        if len(message.prompt_ids) > self._max_num_tokens:
            return ErrorResponse(message.id, f"the prompt has more than {self._max_num_tokens} tokens")
        if len(message.prompt_ids) > self._max_prompt:
            # The context must hold at least one token after the prompt.
            return ErrorResponse(message.id, f"Prompt length exceeds maximum input length {self._max_prompt}")
        try:
            self._waiting.append(Sequence(message, self._script, self._tokenizer))
        except ValueError as error:
            return ErrorResponse(message.id, str(error))
        return None

    def _cancel(self, request_id: int) -> None:
        for sequence in tuple(self._waiting):
            if sequence.request.id == request_id:
                # The request is scheduled once more, so that it can end.
                self._waiting.remove(sequence)
                self._running[request_id] = sequence
        if request_id in self._running:
            self._running[request_id].cancel()

    def _schedule(self) -> None:
        while self._waiting and len(self._running) < self._max_batch_size:
            request = self._waiting[0].request
            if not self._cache.reserve(request.id, len(request.prompt_ids) + request.max_tokens):
                return
            sequence = self._waiting.popleft()
            self._cache.reuse(request.prompt_ids, request.cache_salt)
            sequence.begin()
            self._running[request.id] = sequence

    def _iterate(self) -> list[Response | ErrorResponse]:
        """Run one engine step: at most one response for each request."""
        self._iteration += 1
        now = time.monotonic()
        due = [sequence for sequence in self._running.values() if sequence.wakes_at <= now]
        responses = self._fail_all(due) or [sequence.step() for sequence in due]
        for response in responses:
            if isinstance(response, ErrorResponse) or response.is_final:
                del self._running[response.client_id]
                self._cache.free(response.client_id)
                self._completed += 1
        return responses

    def _fail_all(self, due: list[Sequence]) -> list[Response | ErrorResponse]:
        """An error of one request fails the engine step, and with it every active request."""
        flaw = next((sequence.flaw for sequence in due if sequence.flaw is not None), None)
        if flaw is None:
            return []
        message = f"Encountered an error in forwardAsync function: {flaw}"
        return [ErrorResponse(request_id, message) for request_id in self._running]

    def _dispatch(self, responses: list[Response | ErrorResponse]) -> None:
        queues = []
        for response in responses:
            result = self._results[response.client_id]
            if isinstance(response, ErrorResponse) or response.is_final:
                del self._results[response.client_id]
            if result.aqueue is not None:
                result.aqueue.put_nowait(response)
                queues.append(result.aqueue)
            if isinstance(response, ErrorResponse) and response.fatal:
                self._stopping = True
        if self._loop is not None:
            notify_many(self._loop, queues)

    def _reading(self) -> dict[str, object]:
        return {
            "iter": self._iteration,
            "iterLatencyMS": 1.0,
            "numActiveRequests": len(self._running),
            "numQueuedRequests": len(self._waiting),
            "numCompletedRequests": self._completed,
            "maxNumActiveRequests": self._max_batch_size,
            "maxBatchSizeStatic": self._max_batch_size,
            "maxNumTokensStatic": self._max_num_tokens,
            "kvCacheStats": self._cache.stats(),
            "inflightBatchingStats": {"numScheduledRequests": len(self._running)},
        }
