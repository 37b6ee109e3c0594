"""What goes wrong in the simulated engine."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIRECTIVE = re.compile(r"@sim\(([a-z_=0-9, ]*)\)")


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, and before which token."""

    fail_at: int | None = None
    stall_at: int | None = None
    die_at: int | None = None
    ignore_cancel: bool = False
    crash_at_start: bool = False

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read `fail_at=3, ignore_cancel`.

        Raises:
            ValueError: naming the unknown or malformed fault.

        """
        found: dict[str, int | bool] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = part.partition("=")
            if name in ("ignore_cancel", "crash_at_start") and not value:
                found[name] = True
            elif name in ("fail_at", "stall_at", "die_at") and value.isdigit():
                found[name] = int(value)
            else:
                raise ValueError(f"unknown fault {part!r}")
        return cls(**found)  # type: ignore[arg-type]

    def or_else(self, other: Faults) -> Faults:
        """These faults, or the other ones where there are none."""
        return other if self == Faults() else self


def directed_faults(prompt: str) -> Faults | None:
    """The faults that a prompt asks for, if it does.

    Raises:
        ValueError: naming the unknown or malformed fault.

    """
    found = _DIRECTIVE.search(prompt)
    return None if found is None else Faults.parse(found.group(1))
