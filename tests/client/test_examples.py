from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.support.scripted import Running

EXAMPLES = Path(__file__).parents[2] / "examples"


async def _run(name: str, *arguments: str, **variables: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | variables,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("name", ["grpc_async.py", "grpc_sync.py"])
async def test_an_example_runs(running: Running, name: str) -> None:
    """Against the address on its command line, with the key of its environment."""
    code, out, err = await _run(name, running.target, LODESTREAM_API_KEY="pg_x")

    assert (code, "Hello" in out, "Traceback" in err) == (0, True, False), err
    assert {seen.metadata["authorization"] for seen in running.service.seen} == {"Bearer pg_x"}


@pytest.mark.parametrize("name", ["grpc_async.py", "grpc_sync.py"])
async def test_an_example_without_a_service_says_so(name: str) -> None:
    code, _, err = await _run(name, LODESTREAM_TARGET="127.0.0.1:1")

    assert code == 1
    assert "UnavailableError: The service is not reachable" in err
    assert "Traceback" not in err
