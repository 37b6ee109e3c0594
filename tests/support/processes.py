"""Runs servers as processes that a test can signal and kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodestream_common.ready import READY_FILE, read_ready
from tests.support.pacing import pacing_settings


@dataclass(slots=True)
class ServerProcess:
    """A running `lodestream serve` or `lodestream bridge`."""

    process: subprocess.Popen[bytes]
    address: str

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait(self, seconds: float = 30) -> int:
        """Wait for the end of the process. Return its exit status."""
        return await asyncio.to_thread(self.process.wait, seconds)


@asynccontextmanager
async def server_process(
    command: str, home: Path, stderr: Any = None, **settings: Any
) -> AsyncIterator[ServerProcess]:
    """Start a server with the given settings. It is ended when the context ends.

    `stderr` is a descriptor that gets its logs; None: that of the tests.
    """
    process, ready = _spawn(command, home, settings, stderr)
    try:
        yield ServerProcess(process, await _address(process, ready))
    finally:
        process.kill()
        await asyncio.to_thread(process.wait, 10)


def _spawn(
    command: str, home: Path, settings: dict[str, Any], stderr: int | None
) -> tuple[subprocess.Popen[bytes], Path]:
    ready = home / f"{command}.ready"
    ready.unlink(missing_ok=True)
    given = {"keys_file": home / "keys.json", "log_level": "warning", **pacing_settings(), **settings}
    if command == "bridge":
        given.setdefault("retry_timeout", 2.0)
    variables = {f"LODESTREAM_{name.upper()}": str(value) for name, value in given.items()}
    environment = {n: v for n, v in os.environ.items() if not n.startswith("LODESTREAM_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "lodestream.cli", command],
        env={**environment, **variables, READY_FILE: str(ready)},
        stderr=stderr,
    )
    return process, ready


async def _address(process: subprocess.Popen[bytes], ready: Path) -> str:
    for _ in range(1200):
        if address := read_ready(ready):
            return address
        assert process.poll() is None, f"the server ended with status {process.returncode}"
        await asyncio.sleep(0.05)
    raise AssertionError("the server did not become ready within 60 seconds")
