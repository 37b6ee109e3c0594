from __future__ import annotations

import sys
import threading
import time

from inference_service.models.errors import ModelError

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """What the one who waits for a fetch sees of it on stderr, and how they end it.

    Args:
        shown: whether to write anything.
        stop: ends the fetch once it is set, from any thread.

    """

    def __init__(self, *, shown: bool, stop: threading.Event | None = None) -> None:
        self._shown = shown
        self._stop = stop or threading.Event()
        self._last_line = time.monotonic()

    @property
    def wants_bar(self) -> bool:
        """Whether stderr is a terminal, where a bar can be drawn."""
        return self._shown and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Write a line."""
        if self._shown:
            sys.stderr.write(f"lodestream: {text}\n")
            sys.stderr.flush()

    def report(self, done: int, total: int) -> None:
        """Write how many bytes are there, but only now and then, and where no bar says it.

        Raises:
            ModelError: the fetch is to end.

        """
        self.check()
        if self.wants_bar or time.monotonic() - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = time.monotonic()
        self.say(f"{done >> 20} of {total >> 20} MiB")

    def check(self) -> None:
        """Go on, or not.

        Raises:
            ModelError: the fetch is to end.

        """
        if self._stop.is_set():
            raise ModelError("Fetching the model was stopped; the next start begins anew.")
