"""Cores and memory that this process may use, within its cpuset and control groups of both versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

_ROOT = Path("/")
_UNLIMITED = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""

Limit = Callable[[Path], float | None]
"""Reads what the files of one control group allow; None: they set no limit."""


def usable_cores(root: Path = _ROOT) -> int:
    """How many threads can compute at once: the cores of the cpuset, and no more than the CPU quota pays for.

    A share of a core beyond whole ones is left out: a thread too many makes the kernel stop all of them
    for a part of every period.

    Args:
        root: where /proc and /sys are.

    """
    cores = len(os.sched_getaffinity(0))
    quotas = [*_limits(root, "cpu", _quota_v1), *_limits(root, "", _quota_v2)]
    return max(1, int(min([cores, *quotas])))


def usable_memory(root: Path = _ROOT) -> int:
    """Bytes that can still be allocated: what the machine has free, within the control groups' limits.

    Page cache counts as free, because the kernel drops it for whoever needs memory.

    Args:
        root: where /proc and /sys are.

    """
    free = psutil.virtual_memory().available
    left = [*_limits(root, "memory", _memory_left_v1), *_limits(root, "", _memory_left_v2)]
    return max(0, int(min([free, *left])))


def _limits(root: Path, controller: str, read: Limit) -> Iterator[float]:
    """Read the control groups of this process from the innermost to the root: each may be the tightest."""
    path = _group(root, controller)
    if path is None:
        return
    mount = root / "sys/fs/cgroup"
    # Version 2 stands alone, or beside version 1 in a directory of its own.
    mounts = [mount / controller] if controller else [mount, mount / "unified"]
    for base in mounts:
        # In a container the path may be the host's, of which only the mount itself is visible.
        for group in (base / path, *(base / path).parents):
            if not group.is_relative_to(base):
                break
            limit = read(group)
            if limit is not None:
                yield limit


def _group(root: Path, controller: str) -> Path | None:
    """The path of this process's control group below the mount of a controller; version 2 has none named."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return Path(path.lstrip("/"))
    return None


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _quota_v1(group: Path) -> float | None:
    return _ratio(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    allowed, of = _number(quota), _number(period)
    return allowed / of if allowed and of else None


def _memory_left_v2(group: Path) -> float | None:
    limits = [_number(_text(group / name)) for name in ("memory.max", "memory.high")]
    set_ones = [limit for limit in limits if limit is not None]
    if not set_ones:
        return None
    return min(set_ones) - _held(group, "memory.current", "inactive_file")


def _memory_left_v1(group: Path) -> float | None:
    limit = _number(_text(group / "memory.limit_in_bytes"))
    if limit is None or limit >= _UNLIMITED:
        return None
    return limit - _held(group, "memory.usage_in_bytes", "total_inactive_file")


def _held(group: Path, usage: str, cache: str) -> int:
    """Bytes that a group uses and the kernel cannot simply drop."""
    used = _number(_text(group / usage)) or 0
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == cache:
            return max(0, used - (_number(value) or 0))
    return used


def _number(text: str) -> int | None:
    """A whole number; None for `max`, for -1, and for what is not there."""
    return int(text) if text.strip().isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
