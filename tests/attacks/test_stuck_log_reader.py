"""A log reader that stops reading does not block the servers."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from inference_client import AsyncClient
from tests.support.processes import server_process
from tests.support.service import MODEL_ID

REQUESTS = 60
"""Each request writes at least one log line of about 400 bytes on either server.

The pipe holds 4096 bytes.
"""
LIMIT = 20.0


@pytest.fixture
def stuck() -> Iterator[tuple[int, int]]:
    """The reading and the writing end of a small pipe that nobody reads."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    os.close(reading)
    os.close(writing)


async def test_a_stuck_reader_of_stderr_freezes_neither_server(
    stuck: tuple[int, int], tmp_path: Path
) -> None:
    """Before, both servers stopped answering, health included, once the pipe was full."""
    settings = {"log_level": "debug", "stderr": stuck[1]}
    async with (
        server_process(
            "serve",
            tmp_path,
            backend="simulated",
            model=MODEL_ID,
            grpc_address="127.0.0.1:0",
            requests_per_minute=0,
            **settings,
        ) as service,
        server_process(
            "bridge", tmp_path, grpc_address=service.address, http_address="127.0.0.1:0", **settings
        ) as bridge,
        httpx.AsyncClient(base_url=f"http://{bridge.address}", timeout=LIMIT) as http,
        AsyncClient(service.address, timeout=LIMIT) as client,
    ):
        for _ in range(REQUESTS):
            body = {"model": MODEL_ID, "prompt": "Hello", "max_tokens": 1}
            assert (await http.post("/v1/completions", json=body)).status_code == 200
            await client.generate(model=MODEL_ID, prompt="Hello", max_tokens=1)
        assert (await http.get("/health/ready")).status_code == 200
        assert (await http.get("/health/live")).status_code == 200

        service.process.terminate()
        bridge.process.terminate()
        assert [await service.wait(20), await bridge.wait(20)] == [0, 0]


def test_log_lines_that_do_not_fit_are_dropped_and_counted(stuck: tuple[int, int]) -> None:
    """Lines of libraries, warnings and threads' tracebacks count, too."""
    reading, writing = stuck
    script = """
        import logging, sys, threading, time, warnings
        import structlog
        from lodestream_common.logs import catch_exceptions, configure
        configure("info", "json", server="service")
        catch_exceptions()
        log, library = structlog.get_logger("ours"), logging.getLogger("uvicorn.error")
        for number in range(10_000):
            (log.info if number % 2 else library.warning)("line")
        threading.Thread(target=lambda: 1 / 0).start()
        print("done", flush=True)
        sys.stdin.readline()
        time.sleep(0.5)
        log.info("last")
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        os.set_blocking(reading, False)
        process.stdin.write("go on\n")
        process.stdin.flush()
        text = b""
        while process.poll() is None:
            text += _read(reading)
    text += _read(reading)

    lines = [json.loads(line) for line in text.splitlines()]
    dropped = sum(line.get("dropped", 0) for line in lines)
    written = sum(line["event"] == "line" for line in lines)
    assert dropped > 0
    # The traceback of the thread is one of the dropped lines.
    assert written + dropped == 10_001
    assert lines[-1]["event"] == "last"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return b""
