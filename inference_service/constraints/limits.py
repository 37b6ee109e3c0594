"""The limits on a constraint's size. Together they bound the time of compiling it and of each token."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_SOURCE_BYTES = 524_288
"""Of the caller's text, in UTF-8."""

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
"""Of compiling one constraint."""

_pausing = threading.Lock()
_paused = 0


@contextmanager
def collections_paused() -> Iterator[None]:
    """Keep the garbage collector from looking through the many small objects of a grammar being made.

    It takes half the time of compiling a large schema, and finds nothing.
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
                gc.enable()
