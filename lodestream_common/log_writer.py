"""Log lines on their way to stderr: through a bounded queue, so that no reader holds a server up."""

from __future__ import annotations

import logging
import os
import threading
import time
from queue import SimpleQueue
from typing import TextIO

_MOST_LINES = 4096
_MOST_BYTES = 4 * 1024 * 1024
"""What waits for a reader at most, lines and bytes; what comes then is dropped, and counted."""
_LAST_SECONDS = 2.0
"""A process that ends waits so long for its lines to be read."""


class QueueHandler(logging.Handler):
    """Formats each record where it is made, and has it written by a thread of its own.

    A reader that stops reading costs lines, never time: while the queue is full, lines are dropped. Once the
    reader goes on, a line says how many (`dropped`).

    Args:
        stream: where the lines go, stderr.

    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._descriptor = _descriptor_of(stream)
        # Of all queues this one alone may be used while it is in use: finalisers log at any moment.
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._taken = 0
        self._taken_bytes = 0
        self._written = 0
        self._written_bytes = 0
        self._dropped = 0
        self._told = 0
        threading.Thread(target=self._write_all, name="log-writer", daemon=True).start()

    @property
    def has_written(self) -> bool:
        """Whether any line came here."""
        return self._taken > 0

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped. The caller holds the handler's lock."""
        if self._is_full:
            self._dropped += 1
            return
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception:  # what cannot be rendered must not end a request
            self._dropped += 1
            return
        self._taken += 1
        self._taken_bytes += len(line)
        self._queue.put(line)

    def flush(self) -> None:
        """Wait until everything is written, at most 2 seconds."""
        end = time.monotonic() + _LAST_SECONDS
        while self._is_behind and time.monotonic() < end:
            time.sleep(0.002)

    def close(self) -> None:
        """End the thread once it has written what is queued. Does not wait for that."""
        self._queue.put(None)
        super().close()

    @property
    def _is_behind(self) -> bool:
        return self._written < self._taken or self._told < self._dropped

    @property
    def _is_full(self) -> bool:
        waiting = self._taken - self._written
        return waiting >= _MOST_LINES or self._taken_bytes - self._written_bytes >= _MOST_BYTES

    def _write_all(self) -> None:
        while (line := self._queue.get()) is not None:
            self._write(line)
            self._written_bytes += len(line)
            self._written += 1
            self._tell_dropped()

    def _tell_dropped(self) -> None:
        dropped = self._dropped
        if dropped > self._told:
            line = self.format(_about(dropped - self._told)) + "\n"
            self._write(line.encode("utf-8", "backslashreplace"))
            self._told = dropped

    def _write(self, block: bytes) -> None:
        try:
            if self._descriptor is None:
                self._stream.write(block.decode())
                return
            while block:
                block = block[os.write(self._descriptor, block) :]
        except (OSError, ValueError):
            # Nobody can read it any more, and there is nowhere else to say so.
            return


def _about(dropped: int) -> logging.LogRecord:
    attributes = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({**attributes, "msg": "log lines dropped", "dropped": dropped})


def _descriptor_of(stream: TextIO) -> int | None:
    """Written to directly: a thread that holds the stream's own lock when the process ends would abort it."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
