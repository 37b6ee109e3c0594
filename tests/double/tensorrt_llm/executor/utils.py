from __future__ import annotations

import asyncio


class RequestError(RuntimeError):
    """One request failed."""


class CppExecutorError(RuntimeError):
    """The engine itself failed."""


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The running event loop of this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
