"""Ties a server to the process that started it."""

from __future__ import annotations

import os
import signal
import threading

from lodestream_common.ready import PARENT_PIPE


def hold() -> None:
    """Send SIGTERM to this process once its parent is gone, however the parent ended.

    The parent names the reading end of a pipe in LODESTREAM_PARENT_PIPE and never writes to it: the end of
    the file is the end of the parent. Without the variable nothing happens.
    """
    descriptor = os.environ.get(PARENT_PIPE)
    if descriptor:
        threading.Thread(target=_watch, args=(int(descriptor),), name="leash", daemon=True).start()


def _watch(descriptor: int) -> None:
    os.set_inheritable(descriptor, False)
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
