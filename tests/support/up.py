"""`lodestream up` as a process, on the simulated engine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from inference_service.models.loader import ModelFile

TIMEOUT_SECONDS = 60.0
FREE_PORTS = ("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")


@dataclass
class Up:
    """A running `lodestream up`."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def banner(self) -> str:
        return self.out.read_text()

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The JSON lines on stderr."""
        return [json.loads(line) for line in self.err.read_text().splitlines() if line.startswith("{")]

    @property
    def http(self) -> str:
        return self.find(r"REST +(https?://\S+)")

    @property
    def grpc(self) -> str:
        return self.find(r"gRPC +(\S+)")

    @property
    def curl(self) -> str:
        return self.find(r"(?s)(curl .*'\n)")

    def children(self) -> dict[str, psutil.Process]:
        """The servers by their subcommand."""
        return {child.cmdline()[3]: child for child in psutil.Process(self.process.pid).children()}

    def until_ready(self) -> Up:
        assert soon(lambda: "Try it" in self.banner or self.process.poll() is not None)
        assert self.process.poll() is None, self.err.read_text()
        return self

    def end(self) -> int:
        """Press Ctrl-C once."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(TIMEOUT_SECONDS)

    def find(self, pattern: str) -> str:
        found = re.search(pattern, self.banner)
        assert found, self.banner
        return found[1]


def all_gone(processes: Iterable[psutil.Process]) -> bool:
    """Whether none of the processes runs; zombies count as ended."""
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


Start = Callable[..., Up]


def soon(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def starting(home: Path, model: ModelFile) -> Iterator[Start]:
    """Yield a function that starts `lodestream up` on the simulated engine.

    What still runs at the end is killed.
    """
    with contextlib.ExitStack() as stack:

        def run(*flags: str, variables: Mapping[str, str] | None = None) -> Up:
            up = Up(spawn(home, model, flags, variables or {}), home / "out", home / "err")
            stack.callback(kill, up.process)
            return up

        yield run


def spawn(
    home: Path, model: ModelFile, flags: tuple[str, ...], variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return run_up(home, ("--backend=simulated", f"--model={model.path}", *flags), variables)


def run_up(home: Path, flags: tuple[str, ...], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with (home / "out").open("wb") as out, (home / "err").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "lodestream.cli", "up", *flags],
            stdout=out,
            stderr=err,
            env={**os.environ, **variables},
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    process.kill()
    process.wait(TIMEOUT_SECONDS)


def body(model: str, **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **options}


@contextlib.contextmanager
def stream(up: Up, **options: Any) -> Iterator[Iterator[str]]:
    """Start a stream and yield its lines after the first one."""
    model = up.find(r"model +(\S+)")
    url = f"{up.http}/v1/chat/completions"
    with httpx.stream(
        "POST", url, json=body(model, stream=True, **options), timeout=TIMEOUT_SECONDS
    ) as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith("data: ")
        yield lines
