"""Cores and memory follow the limits of containers: control groups of both versions, and the cpuset."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lodestream_common.machine import usable_cores, usable_memory

GIB = 1 << 30
V2 = "sys/fs/cgroup"


def tree(root: Path, membership: str, files: dict[str, str]) -> Path:
    """A machine whose /proc says what groups this process is in, and whose groups hold these files."""
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.fixture(autouse=True)
def _a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cores and 256 GiB, of which nothing is used."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 256 * GIB}))


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/", {f"{V2}/cpu.max": "200000 100000"}, 2),
        ("0::/", {f"{V2}/cpu.max": "max 100000"}, 64),
        ("0::/", {f"{V2}/cpu.max": "150000 100000"}, 1),
        ("0::/", {f"{V2}/cpu.max": "50000 100000"}, 1),
        ("0::/", {f"{V2}/cpu.max": "9900000 100000"}, 64),
        # The tightest of the groups around it counts.
        ("0::/a/b", {f"{V2}/a/cpu.max": "300000 100000", f"{V2}/a/b/cpu.max": "max 100000"}, 3),
        # A path of the host that the container does not see.
        ("0::/../../docker/x", {f"{V2}/cpu.max": "400000 100000"}, 4),
        ("0::/kubepods/pod1/x", {f"{V2}/cpu.max": "400000 100000"}, 4),
        (
            "3:cpu,cpuacct:/docker/x\n0::/",
            {f"{V2}/cpu/cpu.cfs_quota_us": "250000", f"{V2}/cpu/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            "1:cpu:/a",
            {f"{V2}/cpu/a/cpu.cfs_quota_us": "-1", f"{V2}/cpu/a/cpu.cfs_period_us": "100000"},
            64,
        ),
        # Both versions beside each other.
        ("1:cpu:/\n0::/a", {f"{V2}/unified/a/cpu.max": "500000 100000"}, 5),
        ("", {}, 64),
        ("0::/", {f"{V2}/cpu.max": "nonsense"}, 64),
    ],
)
def test_the_number_of_cores_follows_the_quota(
    membership: str, files: dict[str, str], cores: int, tmp_path: Path
) -> None:
    assert usable_cores(tree(tmp_path, membership, files)) == cores


@pytest.mark.parametrize(
    ("membership", "files", "left"),
    [
        ("0::/", {f"{V2}/memory.max": str(2 * GIB)}, 2 * GIB),
        ("0::/", {f"{V2}/memory.max": "max"}, 256 * GIB),
        ("0::/", {f"{V2}/memory.max": "max", f"{V2}/memory.high": str(3 * GIB)}, 3 * GIB),
        # What others in the group hold is gone, what the kernel caches for them is not.
        (
            "0::/a",
            {
                f"{V2}/a/memory.max": str(4 * GIB),
                f"{V2}/a/memory.current": str(3 * GIB),
                f"{V2}/a/memory.stat": f"anon 1\ninactive_file {2 * GIB}\nactive_file 5",
            },
            3 * GIB,
        ),
        ("0::/a", {f"{V2}/a/memory.max": str(GIB), f"{V2}/a/memory.current": str(2 * GIB)}, 0),
        ("0::/a/b", {f"{V2}/a/memory.max": str(GIB), f"{V2}/a/b/memory.max": str(2 * GIB)}, GIB),
        (
            "4:memory:/docker/x",
            {
                f"{V2}/memory/memory.limit_in_bytes": str(2 * GIB),
                f"{V2}/memory/memory.usage_in_bytes": str(GIB),
                f"{V2}/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}",
            },
            2 * GIB,
        ),
        ("4:memory:/", {f"{V2}/memory/memory.limit_in_bytes": "9223372036854771712"}, 256 * GIB),
        ("", {}, 256 * GIB),
    ],
)
def test_free_memory_is_that_of_the_tightest_group(
    membership: str, files: dict[str, str], left: int, tmp_path: Path
) -> None:
    assert usable_memory(tree(tmp_path, membership, files)) == left


def test_the_number_of_cores_follows_the_cpuset() -> None:
    """A process that may run on one core computes with one thread."""
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from lodestream_common.machine import usable_cores, usable_memory;"
        "print(usable_cores(), usable_memory() > 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "1 True\n"
