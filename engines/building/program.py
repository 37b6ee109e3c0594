"""Runs one program of a build, its output in a log."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engines.building.errors import StageFailed
from engines.building.failures import Diagnosis, diagnose
from engines.building.progress import Progress
from engines.runtime import writable_workspace

_TAIL = 256 * 1024
_TICK_SECONDS = 0.5
_GRACE_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and where."""

    stage: str
    argv: Sequence[str]
    work: Path
    """It runs in there: TensorRT-LLM leaves files where it runs."""
    log: Path
    lock: int
    """A descriptor that it inherits."""
    variables: Mapping[str, str]
    """Of its environment."""

    def run(self, progress: Progress) -> None:
        """Run it to its end.

        Raises:
            StageFailed: it cannot be started, or ended badly.

        """
        with self.log.open("wb") as log:
            try:
                process = subprocess.Popen(  # noqa: S603  the plan's own command
                    self.argv,
                    cwd=self.work,
                    env={**self.variables, **writable_workspace(self.variables), "PYTHONUNBUFFERED": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(self.lock,),
                )
            except OSError as error:
                raise StageFailed(self.stage, self._not_started(error), None) from None
        try:
            status = self._wait(process, progress)
        except BaseException:
            _end(process)
            raise
        if status:
            raise StageFailed(self.stage, diagnose(tail(self.log), status), self.log)

    def _wait(self, process: subprocess.Popen[bytes], progress: Progress) -> int:
        begun = time.monotonic()
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_TICK_SECONDS)
            lines = tail(self.log, 4096).split("\n")
            progress.tick(
                time.monotonic() - begun, next((line for line in reversed(lines) if line.strip()), "")
            )

    def _not_started(self, error: OSError) -> Diagnosis:
        return Diagnosis(
            f"{self.argv[0]} cannot be started ({os.strerror(error.errno or 0)})",
            "build in NVIDIA's release image of TensorRT-LLM 1.2.1, where it is on the PATH",
        )


def tail(log: Path, size: int = _TAIL) -> str:
    """The end of a log, in bytes at most `size`."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode("utf-8", "replace").replace("\r", "\n")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
