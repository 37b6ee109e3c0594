"""The errors of a constraint, and the limits whose excess is one.

The limits together bound the time of compiling a constraint and of each token.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

MAX_SOURCE_BYTES = 524_288
"""The size of the caller's text, in UTF-8."""

MAX_DEPTH = 64
"""Groups inside groups of a regular expression or a GBNF grammar."""

MAX_RULES = 20_000
MAX_ELEMENTS = 400_000
"""Characters, classes and references of a whole grammar; a counted repetition counts once."""

MAX_REPETITIONS = 65_536
"""Upper limit of a counted repetition in a regular expression or a GBNF grammar."""

MAX_ALTERNATIVES = 1_000
"""Ways to expand one schema (anyOf, oneOf, not, if) or one regular expression with anchors inside."""

MAX_SCHEMAS = 20_000
"""Distinct combinations of schemas that one document may need rules for."""

MAX_SECONDS = 2.0
"""Processor time of compiling one constraint, or the calls of a request's tools."""

_MAX_PATH = 200


class ConstraintError(ValueError):
    """Expected: the caller's constraint cannot be honoured exactly.

    Args:
        message: what is wrong, without the place.
        path: where: `$.properties.name.pattern` in a JSON Schema, `position 7` in a regular expression,
            `line 3, column 5` or `rule item` in a grammar; empty if it is the whole of it.

    """

    def __init__(self, message: str, path: str = "") -> None:
        self.message = message
        self.path = path if len(path) <= _MAX_PATH else f"{path[: _MAX_PATH - 1]}…"
        super().__init__(f"{message} (at {self.path})" if path else message)


class UnsupportedKeyword(ConstraintError):
    """A keyword of a JSON schema cannot be enforced exactly where it stands.

    Args:
        message: as `ConstraintError`.
        path: of the schema.
        keyword: of the schema.

    """

    def __init__(self, message: str, path: str, keyword: str) -> None:
        self.schema_path = path
        self.keyword = keyword
        super().__init__(message, f"{path}.{keyword}")


class TookTooLong(ConstraintError):
    """Compiling a constraint takes more than the time that it may take."""


class _Deadline(threading.local):
    at = float("inf")
    """As `time.thread_time()` counts."""


_deadline = _Deadline()


@contextmanager
def time_limit(seconds: float = MAX_SECONDS) -> Iterator[None]:
    """Limit the processor time of this thread inside the context; a limit outside of it stays valid."""
    outer = _deadline.at
    _deadline.at = min(outer, time.thread_time() + seconds)
    try:
        yield
    finally:
        _deadline.at = outer


def seconds_left() -> float:
    """Processor time until the limit; infinite without a limit."""
    return _deadline.at - time.thread_time()


def check_time() -> None:
    """See that there is time left. Every loop that may run for long calls this once in some milliseconds.

    Raises:
        TookTooLong: there is none.

    """
    if time.thread_time() > _deadline.at:
        raise TookTooLong(f"compiling it takes more than {MAX_SECONDS:g} seconds")


_pausing = threading.Lock()
_paused = 0


@contextmanager
def collections_paused() -> Iterator[None]:
    """Keep the garbage collector from searching the many small objects of a grammar that is being made.

    The search takes half the time of compiling a large schema, and finds nothing.
    """
    global _paused  # noqa: PLW0603 - the collector is the process's, and so is the count of who pauses it
    with _pausing:
        _paused += 1
        gc.disable()
    try:
        yield
    finally:
        with _pausing:
            _paused -= 1
            if not _paused:
                # What is left is young. Collected apart, it does not lead to a search of the whole process.
                gc.collect(0)
                gc.enable()
