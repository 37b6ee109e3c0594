"""Binary units, as memory is counted in."""

from __future__ import annotations

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def gib(size: float) -> str:
    """Write bytes in GiB: `8.46 GiB`."""
    return f"{size / GIB:.2f} GiB"
