"""How the servers notice that a file was changed or replaced while they run: by its `stat`."""

from __future__ import annotations

import time
from pathlib import Path

Signature = tuple[int, ...]
"""Differs between two states of a file: inode, size, times of the last change of content and of `stat`."""


def file_signature(path: Path) -> Signature | None:
    """The signature of a file; None: it cannot be looked at."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class WatchedFile:
    """A file whose changes are noticed within `check_interval` seconds. Make it before the file is read.

    Args:
        path: of the file, which may be missing.
        check_interval: least seconds between two looks at the file.

    """

    def __init__(self, path: Path, check_interval: float) -> None:
        self._path = path
        self._check_interval = check_interval
        self._signature = file_signature(path)
        self._next_check = time.monotonic() + check_interval

    @property
    def is_missing(self) -> bool:
        """Whether the file could not be looked at last time."""
        return self._signature is None

    def has_changed(self) -> bool:
        """Whether the file has changed since the last True; False without a look before the interval ends."""
        now = time.monotonic()
        if now < self._next_check:
            return False
        self._next_check = now + self._check_interval
        signature = file_signature(self._path)
        if signature == self._signature:
            return False
        # Kept before the caller reads the file, so that the next check finds a change in between.
        self._signature = signature
        return True
