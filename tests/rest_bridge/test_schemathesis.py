"""Random requests from the API's own description, valid or not, never cause a 5xx."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.support.transports import running_transports

SECONDS = float(os.environ.get("LODESTREAM_SCHEMATHESIS_SECONDS", "15"))
"""The seconds for each engine; a longer run finds more."""


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("backend", ["simulated", "llama_cpp"])
async def test_no_request_is_answered_with_a_server_error(backend: str, tmp_path: Path) -> None:
    async with running_transports(backend=backend, threads=1, max_concurrency=8) as transports:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{transports.url}/openapi.json",
            "--checks=not_a_server_error",
            f"--max-time={SECONDS:.0f}",
            "--request-timeout=60",
            # The shortest timeout that a caller may ask for is a millisecond, and 504 its right answer.
            "--header=x-request-timeout: 60",
            "--continue-on-failure",
            "--no-color",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), SECONDS + 90)
        finally:
            if process.returncode is None:
                process.kill()

    text = output.decode(errors="replace")
    assert process.returncode == 0, text[-8000:]
    assert " generated, " in text
