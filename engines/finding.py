"""Something that is not as it must be, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "unchecked"]

NOTHING = "nothing"
"""What was found where there is nothing."""
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
        if self.found == NOTHING:
            return f"{self.field}: is missing; it must be {self.wanted}"
        return f"{self.field}: found {self.found}, wanted {self.wanted}"


def in_lines(headline: str, findings: Sequence[Finding]) -> tuple[str, Sequence[str]]:
    """The message of an error and its details: a single finding speaks for itself."""
    lines = [str(finding) for finding in findings]
    return (lines[0], ()) if len(lines) == 1 else (headline, lines)


def shown(value: object) -> str:
    """Write a value into a finding: short, and in one line."""
    if value is None:
        return NOTHING
    text = " ".join(str(value).split()) if isinstance(value, str) else repr(value)
    return (text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...") or "an empty text"
