"""The cores and the memory that this process may use, limited by its cpuset and its control groups."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

_ROOT = Path("/")
_UNLIMITED = 1 << 60
"""Version 1 has a number near 2^63 if there is no limit."""

Limit = Callable[[Path], float | None]
"""Reads the limit in the files of one control group; None: there is no limit."""


def usable_cores(root: Path = _ROOT) -> int:
    """Count the threads that can compute at once: the cores of the cpuset, limited by the CPU quota.

    The quota is rounded down, since with one thread too many the kernel stops all threads for a part of every
    period.

    Args:
        root: the directory of /proc and /sys.

    """
    cores = len(os.sched_getaffinity(0))
    quotas = [*_limits(root, "cpu", _quota_v1), *_limits(root, "", _quota_v2)]
    return max(1, int(min([cores, *quotas])))


def usable_memory(root: Path = _ROOT) -> int:
    """Bytes that can still be allocated: the free memory of the machine, limited by the control groups.

    The page cache counts as free, because the kernel drops it when memory is needed.

    Args:
        root: the directory of /proc and /sys.

    """
    free = psutil.virtual_memory().available
    left = [*_limits(root, "memory", _memory_left_v1), *_limits(root, "", _memory_left_v2)]
    return max(0, int(min([free, *left])))


def _limits(root: Path, controller: str, read: Limit) -> Iterator[float]:
    """Read the limits of this process's control groups, from the innermost one to the root; any may be the
    lowest.
    """
    path = _group(root, controller)
    if path is None:
        return
    mount = root / "sys/fs/cgroup"
    # Version 2 is mounted alone, or beside version 1 in its own directory.
    mounts = [mount / controller] if controller else [mount, mount / "unified"]
    for base in mounts:
        # In a container the path may be that of the host, and only the mount itself is visible.
        for group in (base / path, *(base / path).parents):
            if not group.is_relative_to(base):
                break
            limit = read(group)
            if limit is not None:
                yield limit


def _group(root: Path, controller: str) -> Path | None:
    """The path of this process's control group below the mount of a controller; version 2 has no
    controller.
    """
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
    finite = [limit for limit in limits if limit is not None]
    if not finite:
        return None
    return min(finite) - _used_memory(group, "memory.current", "inactive_file")


def _memory_left_v1(group: Path) -> float | None:
    limit = _number(_text(group / "memory.limit_in_bytes"))
    if limit is None or limit >= _UNLIMITED:
        return None
    return limit - _used_memory(group, "memory.usage_in_bytes", "total_inactive_file")


def _used_memory(group: Path, usage: str, cache: str) -> int:
    """Bytes that a group uses, without the cache that the kernel can drop."""
    used = _number(_text(group / usage)) or 0
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == cache:
            return max(0, used - (_number(value) or 0))
    return used


def _number(text: str) -> int | None:
    """A whole number; None for `max`, -1 and a missing file."""
    return int(text) if text.strip().isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
