"""Runs blocking work in a thread, off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


async def off_loop(work: Callable[[], Result]) -> Result:
    """Do blocking work in a thread that does not keep the process alive if it never returns."""
    future: Future[Result] = Future()
    # Running work cannot be cancelled: when the caller stops waiting, the thread continues.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="tensorrt_llm", daemon=True).start()
    return await asyncio.wrap_future(future)
