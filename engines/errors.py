"""What this room refuses, and why.

EngineError            something about an engine, its checkpoint or its GPU is not as it must be
└── PlanRefused        no engine can be built as asked
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class EngineError(Exception):
    """Expected: the caller has to change something. The message is one line.

    Args:
        message: the line.
        details: where several things are wrong, one line for each.

    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class PlanRefused(EngineError):
    """Expected: no engine can be built as asked.

    Args:
        field: the parameter of `plan` to change, or the checkpoint's own field: `config.json: hidden_size`.
        found: its value.
        reason: why not, and where it helps, what would do. One line.

    """

    def __init__(self, field: str, found: object, reason: str) -> None:
        super().__init__(f"{field} {found}: {reason}")
        self.field = field
        self.found = found
        self.reason = reason


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which names there are, the nearest one first."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return (f"did you mean {near[0]}? " if near else "") + "known: " + ", ".join(names)
