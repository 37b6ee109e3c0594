"""Files of models on disk: hashes, durable writes, and the progress of a fetch."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lodestream_common.errors import OperatorError


class ModelError(OperatorError):
    """Expected: a model cannot be found, fetched, verified or read."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(" ".join(message.split()), details)


class FetchStopped(ModelError):
    """The fetch was stopped from outside."""


_HASH_BLOCK = 1 << 20
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def sha256_of(path: Path) -> str:
    """Hash of a file's content, in hex."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_HASH_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def sync_directory(path: Path) -> None:
    """Make renames inside a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write below a directory into a ModelError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise no_space(directory) from error
        reason = error.strerror or type(error).__name__
        raise ModelError(
            f"Cannot write to the cache directory {directory} ({reason}): make it writable, or choose "
            "another one with --cache-dir."
        ) from error


def no_space(directory: Path) -> ModelError:
    """The error of a full disk."""
    return ModelError(
        f"No space is left in the cache directory {directory}: free some, or choose another one "
        "with --cache-dir."
    )


_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Reports the progress of a fetch on stderr, and stops the fetch on request.

    Everything but `stop` is used by one thread.

    Args:
        shown: whether to write anything.
        stop: ends the fetch once it is set, from any thread.

    """

    def __init__(self, *, shown: bool, stop: threading.Event | None = None) -> None:
        self._shown = shown
        self._stop = stop or threading.Event()
        self._last_line = time.monotonic()
        self._bar: Any = None

    @property
    def wants_bar(self) -> bool:
        """Whether stderr is a terminal, where a bar can be drawn."""
        return self._shown and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Write a line."""
        self.end_bar()
        if self._shown:
            sys.stderr.write(f"lodestream: {text}\n")
            sys.stderr.flush()

    def report(self, done: int, total: int) -> None:
        """Report how many bytes are fetched: by a bar on a terminal, else by a line every few seconds.

        Raises:
            FetchStopped: the fetch is to end.

        """
        self.check()
        if self.wants_bar:
            self._draw(done, total)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"{done >> 20} of {total >> 20} MiB")

    def end_bar(self) -> None:
        """Leave the bar as it is; the next report begins another."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def wait(self, seconds: float) -> None:
        """Sleep, or stop at once when the fetch is to end.

        Raises:
            FetchStopped: the fetch is to end.

        """
        self._stop.wait(seconds)
        self.check()

    def check(self) -> None:
        """Check whether the fetch has been stopped.

        Raises:
            FetchStopped: the fetch is to end.

        """
        if self._stop.is_set():
            raise FetchStopped("Fetching the model was stopped; the next start goes on with it.")

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm  # type: ignore[import-untyped]

            # What an earlier run has fetched does not count towards the speed.
            options = {"initial": done, "unit": "B", "unit_scale": True, "dynamic_ncols": True}
            self._bar = tqdm(total=total, file=sys.stderr, leave=True, **options)
        self._bar.update(done - self._bar.n)
