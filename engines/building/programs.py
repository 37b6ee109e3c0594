"""Runs one program of a build: its log, its progress on the terminal, its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from engines.building.job import StageFailed
from engines.facts.machine import writable_workspace
from engines.facts.toolchain import Diagnosis, diagnose

_TAIL_BYTES = 256 * 1024
_TICK_SECONDS = 0.5
_GRACE_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Program:
    """A command with its working directory, log and environment."""

    stage: str
    argv: Sequence[str]
    work: Path
    """The working directory: TensorRT-LLM writes files into it."""
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
            _terminate(process)
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


def tail(log: Path, size: int = _TAIL_BYTES) -> str:
    """The end of a log, in bytes at most `size`."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode("utf-8", "replace").replace("\r", "\n")


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_QUIET_SECONDS = 60.0


class Progress:
    """Writes to a stream.

    On a terminal the running stage's line is written over and over, with the elapsed time and the program's
    own last line; elsewhere a line a minute shows that it is alive.

    Args:
        stream: where to.
        stages: how many there are.

    """

    def __init__(self, stream: TextIO, stages: int) -> None:
        self._stream = stream
        self._stages = stages
        self._is_terminal = stream.isatty()
        self._label = ""
        self._next_line = _QUIET_SECONDS

    def say(self, text: str) -> None:
        """Something about the whole build."""
        self._line(text)

    def begin(self, number: int, stage: str, log: Path | None) -> None:
        """A stage begins."""
        self._label = f"[{number}/{self._stages}] {stage}"
        self._next_line = _QUIET_SECONDS
        if not self._is_terminal:
            self._line(f"{self._label}: begins" + (f", log in {log}" if log else ""))

    def tick(self, seconds: float, last_line: str) -> None:
        """The stage is still running."""
        text = f"{self._label}  {clock(seconds)}  {last_line}"
        if self._is_terminal:
            width = shutil.get_terminal_size((80, 24)).columns - 1
            self._stream.write("\r\x1b[2K" + "".join(c for c in text if c.isprintable())[:width])
            self._stream.flush()
        elif seconds >= self._next_line:
            self._next_line += _QUIET_SECONDS
            self._line(text)

    def end(self, seconds: float, note: str = "done in") -> None:
        """The stage is over."""
        self._line(f"{self._label}: {note} {clock(seconds)}")

    def _line(self, text: str) -> None:
        self._stream.write(("\r\x1b[2K" if self._is_terminal else "") + text + "\n")
        self._stream.flush()


def clock(seconds: float) -> str:
    """Write a time as people do: `4.2 s`, `2:05`, `1:02:03`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
