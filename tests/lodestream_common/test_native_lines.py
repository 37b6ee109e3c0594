"""The output of native libraries and of crashes on stderr, read by another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

HEAD = """
import logging, os, sys
from lodestream_common.native_lines import forward_native_lines
from lodestream_common.logs import catch_exceptions, configure
forward_native_lines()
configure("warning", "json", server="service")
catch_exceptions()
"""
CORE = """
import asyncio, grpc
async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\\r\\n\\r\\n" * 10)
    await reader.read()
    await server.stop(0)
asyncio.run(main())
"""


def ran(script: str, verbosity: str | None) -> subprocess.CompletedProcess[str]:
    """Run a script that has configured its logs."""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    if verbosity is not None:
        environment["GRPC_VERBOSITY"] = verbosity
    code = HEAD + textwrap.dedent(script)
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_lines_of_the_grpc_core_are_log_lines() -> None:
    done = ran(CORE, "debug")
    lines = [json.loads(line) for line in done.stderr.splitlines()]

    assert done.returncode == 0
    core = [line for line in lines if line["logger"] == "grpc.core"]
    assert core
    assert all(line["source"] and line["event"] and line["server"] == "service" for line in core)
    assert {line["logger"] for line in lines} <= {"grpc.core", "stderr"}


def test_the_core_is_silent_by_default() -> None:
    assert ran(CORE, None).stderr == ""


@pytest.mark.parametrize("verbosity", [None, "error"])
def test_text_on_stderr_comes_complete_and_in_order(verbosity: str | None) -> None:
    """With the pipe each line is a log line, also the last one without a line feed."""
    done = ran('[os.write(2, b"line %d\\n" % n) for n in range(500)]; os.write(2, b"end")', verbosity)
    expected = [f"line {n}" for n in range(500)] + ["end"]
    written = done.stderr.splitlines()

    assert (written if verbosity is None else [json.loads(line)["event"] for line in written]) == expected


@pytest.mark.parametrize("verbosity", [None, "error"])
def test_an_uncaught_exception_is_a_line_with_its_traceback(verbosity: str | None) -> None:
    done = ran("1 / 0", verbosity)
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]

    assert done.returncode == 1
    assert (line["level"], line["logger"]) == ("critical", "python")
    assert "ZeroDivisionError" in line["exception"]


@pytest.mark.parametrize("verbosity", [None, "error"])
def test_a_crash_leaves_the_stacks_of_its_threads(verbosity: str | None) -> None:
    done = ran("import ctypes\ndef crashing(): ctypes.string_at(0)\ncrashing()", verbosity)

    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr
    assert "in crashing" in done.stderr


def test_what_a_library_writes_before_it_aborts_appears_by_default() -> None:
    done = ran('os.write(2, b"GGML_ASSERT failed\\n"); os.abort()', None)

    assert done.returncode == -signal.SIGABRT
    assert done.stderr.startswith("GGML_ASSERT failed\n")


def test_handlers_that_libraries_add_later_write_no_line_of_their_own() -> None:
    """As huggingface_hub does when it is imported."""
    done = ran(
        """
        library = logging.getLogger("some.library")
        library.addHandler(logging.StreamHandler())
        library.propagate = False
        logging.getLogger("some.library.part").warning("careful")
        import huggingface_hub
        logging.getLogger("huggingface_hub.part").warning("slow")
        """,
        None,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]

    assert [(line["logger"], line["event"]) for line in lines] == [
        ("some.library.part", "careful"),
        ("huggingface_hub.part", "slow"),
    ]
