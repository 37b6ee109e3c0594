"""Something that is not as it must be, in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "unchecked"]

_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    field: str
    """What of: a file, a key of config.json or of manifest.json, or a fact of the machine."""
    found: str
    wanted: str
    severity: Severity = "error"
    """`error`: it must not be served; `warning`: it can be; `unchecked`: nothing is there to compare with."""

    def __str__(self) -> str:
        return f"{self.field}: found {self.found}, wanted {self.wanted}"


def shown(value: object) -> str:
    """Write a value into a finding: short, and in one line."""
    if value is None:
        return "nothing"
    text = " ".join(str(value).split()) if isinstance(value, str) else repr(value)
    return (text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...") or "nothing"
