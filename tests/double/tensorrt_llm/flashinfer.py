"""The effect of importing flashinfer: it needs a writable home directory."""

from __future__ import annotations

import os
from pathlib import Path


def find_workspace() -> None:
    """Check the place of flashinfer's cache without creating it.

    Raises:
        OSError: the cache cannot be created.

    """
    base = Path(os.environ.get("FLASHINFER_WORKSPACE_BASE") or Path.home())
    there = next(place for place in (base, *base.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise PermissionError(13, "Permission denied", str(base / ".cache" / "flashinfer"))
