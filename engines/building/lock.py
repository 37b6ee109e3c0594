"""One build in a directory at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.building.errors import BuildRefused


@contextmanager
def only_build(work: Path) -> Iterator[int]:
    """Hold the lock of a work directory.

    The descriptor goes to the programs of the build too: should this process be killed, the lock lasts until
    they have ended as well, and nobody writes into their files.

    Raises:
        BuildRefused: somebody else holds it.

    """
    with (work / "lock").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BuildRefused(
                f"{work} is in use by process {file.read() or '?'} or a program that it started: wait for "
                "it, or end it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()
