"""Facts of files on disk."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference_service.models.errors import ModelError

_BLOCK = 1 << 20
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def sha256_of(path: Path) -> str:
    """Hash of a file's content, in hex."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_BLOCK))
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
