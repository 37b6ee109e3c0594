"""Work that an event cuts short, such as a signal to end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def finishes_before(event: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Run `work` until it is done or `event` is set; in the second case `work` is cancelled.

    Returns:
        Whether the work is done.

    Raises:
        Exception: what `work` raises.

    """
    working, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            return True
        return False
    finally:
        working.cancel()
        waiting.cancel()
