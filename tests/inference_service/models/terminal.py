from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence


def shown_on_a_terminal(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a command that must succeed with stderr on a terminal. Return what it writes there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen(
        command, env=dict(environment), stderr=theirs, stdout=subprocess.DEVNULL
    ) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read_some(ours), b""))
        assert process.wait(60) == 0
    os.close(ours)
    return shown.decode()


def _read_some(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        # Linux: the other side was closed.
        return b""
