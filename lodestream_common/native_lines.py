"""Turns the lines that native libraries write to stderr themselves into log lines.

The gRPC core has no other output. Everything that it writes goes through a pipe in place of the descriptor 2.
What is in the pipe when the process is killed is lost, also what a library writes before it aborts. So this
is done only where `GRPC_VERBOSITY` asks for lines of the core.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
import threading

_STDERR = 2
_VARIABLE = "GRPC_VERBOSITY"
_LONGEST_LINE = 64 * 1024
_CLOSE_SECONDS = 1.0
_CORE = re.compile(r"([IWEF])[0-9]{4} [0-9:.]+ +[0-9]+ ([^\]]{1,200})\] (.*)", re.DOTALL)
"""Severity, source and text of a line of Abseil, which the core logs with."""
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}


def forward_native_lines() -> None:
    """Log each line that a native library writes to stderr, if `GRPC_VERBOSITY` is set, and not to NONE.

    Lines of the gRPC core get the logger `grpc.core` and the field `source`; others get the logger `stderr`.
    It must be called before `logs.configure`, and not in a process whose children call it. `sys.stderr`
    continues to write to the terminal, pipe or file that the process got.
    """
    if os.environ.get(_VARIABLE, "NONE").upper() in ("", "NONE"):
        return
    original = os.dup(_STDERR)
    sys.stderr = os.fdopen(original, "w", buffering=1, errors="backslashreplace", closefd=False)
    reading, writing = os.pipe()
    os.dup2(writing, _STDERR)
    os.close(writing)
    reader = threading.Thread(target=_read, args=(reading,), name="native-lines", daemon=True)
    reader.start()
    atexit.register(_restore, original, reader)


def _restore(original: int, reader: threading.Thread) -> None:
    """Give the process its stderr back. The end of the pipe ends the reader after its last line."""
    os.dup2(original, _STDERR)
    reader.join(_CLOSE_SECONDS)


def _read(reading: int) -> None:
    # The level of the other loggers is not asked: GRPC_VERBOSITY has chosen.
    logging.getLogger("grpc.core").setLevel(logging.DEBUG)
    logging.getLogger("stderr").setLevel(logging.DEBUG)
    rest = b""
    while data := os.read(reading, _LONGEST_LINE):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            _log(line.decode("utf-8", "backslashreplace").rstrip())
    _log(rest.decode("utf-8", "backslashreplace").rstrip())


def _log(line: str) -> None:
    match = _CORE.fullmatch(line)
    if match:
        severity, source, text = match.groups()
        logging.getLogger("grpc.core").log(_LEVELS[severity], "%s", text, extra={"source": source})
    elif line:
        logging.getLogger("stderr").warning("%s", line)
