"""Fixtures of the command line's tests: an empty home, and the command."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from lodestream.cli import main

COMMAND = (sys.executable, "-m", "lodestream.cli")

Lodestream = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory without any settings from outside."""
    for name in os.environ:
        if name.startswith(("LODESTREAM_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def lodestream() -> Lodestream:
    """Returns a function that runs `lodestream ...` to its end in this process."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        out, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
            for name, value in variables.items():
                patch.setenv(name, value)
            status = main(arguments)
        return subprocess.CompletedProcess(arguments, status, out.getvalue(), errors.getvalue())

    return run


@pytest.fixture
def lodestream_process() -> Lodestream:
    """Returns a function that runs `lodestream ...` to its end as a process."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)

    return run
