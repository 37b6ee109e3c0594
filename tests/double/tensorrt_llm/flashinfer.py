"""What importing the library does by way of flashinfer: it wants to write below the home directory."""

from __future__ import annotations

import os
from pathlib import Path


def find_workspace() -> None:
    """Stand where flashinfer makes its cache; nothing is made.

    Raises:
        OSError: that cannot be.

    """
    base = Path(os.environ.get("FLASHINFER_WORKSPACE_BASE") or Path.home())
    there = next(place for place in (base, *base.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise PermissionError(13, "Permission denied", str(base / ".cache" / "flashinfer"))
