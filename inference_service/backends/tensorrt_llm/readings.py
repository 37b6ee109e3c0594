"""The engine's own statistics, one JSON object for each of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reading:
    """The numbers of one engine step; None where this version does not tell."""

    queued: int | None = None
    """Requests that the engine has and does not work on."""
    kv_blocks_used: int | None = None
    kv_blocks_free: int | None = None


def read(stats: Mapping[str, Any]) -> Reading:
    """The numbers of one object, whose keys are those of the engine's C++ types."""
    cache = stats.get("kvCacheStats")
    cache = cache if isinstance(cache, Mapping) else {}
    return Reading(
        queued=_count(stats.get("numQueuedRequests")),
        kv_blocks_used=_count(cache.get("usedNumBlocks")),
        kv_blocks_free=_count(cache.get("freeNumBlocks")),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
