"""What somebody who waits for a build sees: a line for each stage, alive on a terminal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TextIO

_QUIET_SECONDS = 60.0


class Progress:
    """Writes to a stream.

    On a terminal the running stage's line is written over and over, with the elapsed time and the program's
    own last line; elsewhere a line a minute says that it is alive.

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
