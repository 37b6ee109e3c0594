"""The interface that every backend implements, the errors that it raises, and a helper for blocking calls.

BackendError
├── BackendStartError    the engine cannot be loaded
├── EngineRequestError   one request failed
│   └── EngineGrammarError   its grammar is none that the engine can follow
└── EngineDeadError      the engine is gone
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from typing import TypeVar

from inference_service.backends.types import BackendDescription, BackendStats, EngineRequest, EngineStep
from inference_service.constraints.grammar import Grammar
from lodestream_common.errors import OperatorError

Steps = AsyncGenerator[EngineStep, float | None]
"""The steps of one request. `anext` waits for the next token, `asend(seconds)` also for what comes in so many
seconds."""

Result = TypeVar("Result")


class Backend(ABC):
    """Drives one kind of engine through five methods and a description.

    A backend speaks token ids. It knows nothing of stop strings, templates, roles, JSON or protobuf,
    and it never queues: the service admits at most `description.max_concurrency` requests at a time.
    All methods but `check_grammar` are called from one asyncio loop.
    """

    @abstractmethod
    async def start(self) -> BackendDescription:
        """Load the engine and return once it can generate.

        Raises:
            BackendStartError: it cannot be loaded; the message is one line that says what to do.

        """

    @abstractmethod
    def check_grammar(self, grammar: Grammar) -> None:
        """Find out whether the engine can follow a grammar, before a request with it is admitted.

        Blocks for up to seconds; called in any thread, once the engine has started.

        Raises:
            EngineGrammarError: it cannot.

        """

    @abstractmethod
    def generate(self, request: EngineRequest) -> Steps:
        """Generate for one request.

        Iterating never loses a token: what became ready between two `anext` calls is merged into one
        step. `asend(seconds)` gathers for so many seconds first; the end of the request, and its failure,
        end this wait at once. Closing the iterator (or cancelling the task inside `anext`) aborts the
        request; the engine's slot is released within one engine step, also during prefill.

        Raises:
            EngineRequestError: this request failed, the engine lives on; EngineGrammarError: as
                `check_grammar`.
            EngineDeadError: the engine died, and every later call fails too.

        """

    @abstractmethod
    def stats(self) -> BackendStats:
        """Read the engine's state without blocking."""

    @abstractmethod
    async def close(self) -> None:
        """Abort what runs and free the engine. Safe to call twice, and before `start`."""


class BackendError(Exception):
    """Anything an engine raises on purpose."""


class BackendStartError(BackendError, OperatorError):
    """Expected: the engine cannot be loaded. The message is one line for the operator."""


class EngineRequestError(BackendError):
    """Unexpected: one request failed inside the engine, which continues to serve others."""


class EngineGrammarError(EngineRequestError):
    """Expected: the engine cannot follow a grammar. The message says why and is safe to send."""


class EngineDeadError(BackendError):
    """Unexpected: the engine is gone and every later request fails too."""


async def off_loop(work: Callable[[], Result], *, thread_name: str, is_daemon: bool) -> Result:
    """Run a blocking call in a thread of its own, and wait for its result.

    A running call cannot be cancelled: when the caller stops waiting, the thread continues.

    Args:
        work: the call.
        thread_name: the name of the thread, for debuggers.
        is_daemon: whether the interpreter may exit before the call returns. Needed for a call that may never
            return; wrong for native code that must not run while the process exits.

    """
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=thread_name, daemon=is_daemon).start()
    return await asyncio.wrap_future(future)
