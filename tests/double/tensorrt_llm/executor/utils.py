from __future__ import annotations

import asyncio


class RequestError(RuntimeError):
    """One request failed."""


class CppExecutorError(RuntimeError):
    """The engine itself failed."""


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop of this thread, if one runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
