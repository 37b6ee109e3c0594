"""Runs both servers as processes on free ports of the loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lodestream_common.ready import READY_FILE, read_ready


@dataclass(frozen=True, slots=True)
class Running:
    """A server process and its address."""

    address: str
    pid: int


@dataclass(frozen=True, slots=True)
class Pair:
    """The service, and a bridge that calls it."""

    service: Running
    bridge: Running


@contextmanager
def pair(**settings: str) -> Iterator[Pair]:
    """Start both servers; the arguments are settings of either or of both."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        common = {"keys_file": str(home / "keys.json"), "log_level": "warning", "max_connections": "10000"}
        given = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0", **common, **settings}
        service = stack.enter_context(server("serve", home, given))
        given["grpc_address"] = service.address
        bridge = stack.enter_context(server("bridge", home, given))
        yield Pair(service, bridge)


@contextmanager
def server(
    command: str, home: Path, settings: Mapping[str, str], *, log: Path | None = None, timeout: float = 120.0
) -> Iterator[Running]:
    """Run `lodestream COMMAND` until the context ends.

    Args:
        command: `serve` or `bridge`.
        home: a directory for its ready file.
        settings: name → value.
        log: the file for its output; None: the output of this process.
        timeout: seconds within which it must be ready.

    """
    ready = home / f"{command}.ready"
    variables = {f"LODESTREAM_{name.upper()}": value for name, value in settings.items()}
    with ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", "lodestream.cli", command],
            env={"XDG_STATE_HOME": str(home), **os.environ, **variables, READY_FILE: str(ready)},
            stdout=output,
            stderr=output,
        )
        stack.callback(_end, process)
        yield Running(_wait_ready(process, ready, timeout), process.pid)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        # A server that still ran would hold the memory that the next one needs.
        process.kill()
        process.wait()
        raise


def _wait_ready(process: subprocess.Popen[bytes], ready: Path, timeout: float) -> str:
    for _ in range(int(timeout * 10)):
        if address := read_ready(ready):
            return address
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("a server did not become ready")
