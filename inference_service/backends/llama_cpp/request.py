"""Runs one request inside the engine, wakes the event loop for it, and schedules its prefill."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import structlog

from inference_service.backends.base import BackendError, EngineRequestError
from inference_service.backends.llama_cpp.steps import End, Progress, StepBuffer, read_chunk
from inference_service.backends.types import EngineStep
from lodestream_common.pacing import Pause

_log = structlog.stdlib.get_logger(__name__)


class Engine(Protocol):
    """The part of `xllamacpp.Server` that runs requests."""

    def handle_completions(self, body: bytes, callback: Callable[[bytes], bool]) -> None:
        """Block until the request ends. The callback gets each chunk; True aborts."""
        ...


class EngineProgress:
    """The time of the engine's last callback."""

    def __init__(self) -> None:
        self.touch()

    def touch(self) -> None:
        self._last = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._last


class LlamaCppRequest:
    """Runs one request on a thread of its own, and passes its chunks to the event loop.

    The engine calls back in that thread, which only passes the chunk on. The loop parses each chunk, even
    while nothing waits for a step.

    Args:
        request_id: for the log.
        body: the request as the engine's JSON.
        steps: merges what the engine reports.
        prefill_left: the length of the prompt, in tokens.
        on_change: called in the loop when the prefill moved on or `is_inside` ended.

    """

    def __init__(
        self,
        engine: Engine,
        progress: EngineProgress,
        waker: LoopWaker,
        *,
        request_id: str,
        body: bytes,
        steps: StepBuffer,
        prefill_left: int,
        on_change: Callable[[LlamaCppRequest], None],
    ) -> None:
        self._engine = engine
        self._progress = progress
        self._waker = waker
        self._request_id = request_id
        self._body = body
        self._on_change = on_change
        self._steps = steps
        self._changed = asyncio.Event()
        self._gathering = Pause()
        self._error: BackendError | None = None
        self._ended = False
        self._abort = False
        # A daemon: an engine that hangs must not keep the interpreter from exiting.
        self._thread = threading.Thread(target=self._run, name=f"llama_cpp-{request_id}", daemon=True)
        self.prefill_left = prefill_left
        self.has_begun = False
        self.is_inside = False

    @property
    def is_aborting(self) -> bool:
        """Aborted, and still in the engine."""
        return self._abort and self.is_inside

    def start(self) -> None:
        """Enter the engine."""
        self._thread.start()
        self.is_inside = True

    def join(self, timeout: float) -> None:
        """Wait, for so many seconds, until the engine has released the request. Blocks."""
        if self._thread.is_alive():
            self._thread.join(max(0.0, timeout))

    async def next_step(self, gather: float = 0.0) -> EngineStep:
        """Wait for tokens, and take all that are ready.

        Args:
            gather: seconds to wait in any case, unless the request ends.

        Raises:
            BackendError: the request failed.

        """
        await self._gathering.wait(gather)
        while not self._steps.is_ready:
            if self._error is not None:
                raise self._error
            await self._changed.wait()
            self._changed.clear()
        return self._steps.take()

    def abort(self) -> None:
        """Make the engine abort at its next callback. Does nothing once the request has ended."""
        self._abort = not self._ended

    def fail(self, error: BackendError) -> None:
        """End the request with this error, unless it has one already."""
        self._error = self._error or error
        self._gathering.end()
        self._changed.set()

    def _run(self) -> None:
        try:
            self._engine.handle_completions(self._body, self._on_chunk)
        except Exception as error:
            self._log("engine_call_failed", error)
        finally:
            self._schedule(self._on_returned)

    def _on_chunk(self, chunk: bytes) -> bool:
        """Called by the engine, in the worker thread."""
        self._progress.touch()
        self._schedule(lambda: self._read(chunk))
        return self._abort

    def _schedule(self, callback: Callable[[], None]) -> None:
        if not self._waker.schedule(callback):
            # The loop is closed: nothing waits for the result.
            self._abort = True

    def _read(self, chunk: bytes) -> None:
        if self._abort or self._error is not None:
            return
        try:
            self._take_in(chunk)
        except Exception as error:
            self._log("engine_request_failed", error)
            self._error = EngineRequestError("the engine failed this request")
        if self._error is not None or self._steps.has_ended:
            self._gathering.end()
        self._changed.set()

    def _take_in(self, raw: bytes) -> None:
        chunk = read_chunk(raw)
        self._steps.add(chunk)
        if isinstance(chunk, Progress):
            self._set_prefill_left(chunk.total - chunk.processed)
        elif isinstance(chunk, End):
            self._ended = True

    def _set_prefill_left(self, tokens: int) -> None:
        self.prefill_left = tokens
        self.has_begun = True
        self._on_change(self)

    def _log(self, event: str, error: Exception) -> None:
        # Without its traceback, which could show a prompt.
        _log.error(event, request_id=self._request_id, reason=f"{type(error).__name__}: {error}")

    def _on_returned(self) -> None:
        self.is_inside = False
        if not self._ended:
            self.fail(EngineRequestError("the engine dropped this request"))
        self._on_change(self)


class PrefillRequest(Protocol):
    """The facts about a request that the scheduler needs."""

    prefill_left: int
    """Prompt tokens that the engine has yet to compute."""
    has_begun: bool
    """Whether the engine has reported that it reads the prompt: the prompt is part of the current step."""


PrefillRequestT = TypeVar("PrefillRequestT", bound=PrefillRequest)


class PrefillScheduler(Generic[PrefillRequestT]):
    """Admits requests to the engine in their order, each when the next step can begin its prefill.

    llama.cpp fills each step with the prompts of its slots in the order of the slots. A request behind a
    long prompt is not computed and gets no callback, so it cannot be aborted until that prompt is read. The
    scheduler holds such a request back, where an abort costs nothing, until a step has free tokens for it.

    Args:
        slots: requests that the engine runs at once; an aborted one counts until the engine has released it.
        batch_tokens: tokens of one step. Each running request may use one of them; prompts use the rest.

    """

    def __init__(self, *, slots: int, batch_tokens: int) -> None:
        self._slots = slots
        self._batch_tokens = batch_tokens
        self._waiting: deque[tuple[PrefillRequestT, asyncio.Future[None]]] = deque()
        self.inside: set[PrefillRequestT] = set()

    async def enter(self, request: PrefillRequestT) -> None:
        """Wait until the request is admitted. A cancelled wait holds no slot."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, turn))
        self.advance()
        try:
            await turn
        except asyncio.CancelledError:
            # The request may have been admitted at the same moment.
            self.leave(request)
            raise

    def leave(self, request: PrefillRequestT) -> None:
        """The engine has released this request."""
        self.inside.discard(request)
        self.advance()

    def advance(self) -> None:
        """Admit all waiting requests that fit now."""
        while self._waiting:
            request, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(request):
                    return
                self.inside.add(request)
                turn.set_result(None)
            self._waiting.popleft()

    def refuse_all(self, error: Exception) -> None:
        """Fail all waiting requests."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)

    def _fits(self, request: PrefillRequest) -> bool:
        if len(self.inside) >= self._slots:
            return False
        free = self._batch_tokens - len(self.inside)
        ahead = self._tokens_ahead(free)
        return ahead == 0 or ahead + request.prefill_left <= free

    def _tokens_ahead(self, free: int) -> int:
        """Prompt tokens that remain after the step that runs now."""
        begun = sum(e.prefill_left for e in self.inside if e.has_begun)
        waiting = sum(e.prefill_left for e in self.inside if not e.has_begun)
        return max(0, begun - free) + waiting


class LoopWaker:
    """Runs callbacks of other threads in the loop that is running now.

    `call_soon_threadsafe` holds the GIL while it wakes the loop. Where every core computes, the loop gets the
    core of the thread that woke it and waits for the GIL. A compute thread takes the core before that thread
    can release the GIL: this costs milliseconds for every token. Sending on a socket releases the GIL first.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._callbacks: deque[Callable[[], None]] = deque()
        self._is_signalled = False
        self._is_closed = False
        self._inside, self._outside = socket.socketpair()
        for end in (self._inside, self._outside):
            end.setblocking(False)
        self._loop.add_reader(self._inside, self._on_readable)

    def schedule(self, callback: Callable[[], None]) -> bool:
        """Schedule a callback in the loop, from any thread; False if the loop will not run it."""
        if self._is_closed or self._loop.is_closed():
            return False
        self._callbacks.append(callback)
        if not self._is_signalled:
            self._is_signalled = True
            # The socket may be closed at this moment; closing runs all scheduled callbacks.
            with suppress(OSError):
                self._outside.send(b"\0")
        return True

    def close(self) -> None:
        """Run the scheduled callbacks, and accept no more. Call it in the loop; it is safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._inside)
        self._run()
        self._inside.close()
        self._outside.close()

    def _on_readable(self) -> None:
        with suppress(BlockingIOError):
            self._inside.recv(64)
        # Cleared before the callbacks run: a callback that is scheduled from now on signals again.
        self._is_signalled = False
        self._run()

    def _run(self) -> None:
        try:
            while self._callbacks:
                self._callbacks.popleft()()
        finally:
            if self._callbacks:
                self._loop.call_soon(self._run)
