"""The examples run unchanged."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.rest_bridge.running import running_bridge
from tests.support.service import running_service

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ((sys.executable, "openai_sdk.py"), "refused: temperature invalid_value"),
        ((sys.executable, "polargrid_sdk.py"), "health: healthy"),
        pytest.param(
            ("sh", "curl.sh"),
            "max_tokens is 5000; it must be in [1, 4096].",
            marks=pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here"),
        ),
    ],
    ids=["openai", "polargrid", "curl"],
)
async def test_an_example_runs(command: Sequence[str], expected: str) -> None:
    """It runs to its end with a bridge and a service."""
    async with running_service() as service, running_bridge(service.address) as bridge:
        program = await asyncio.create_subprocess_exec(
            *command,
            bridge.url,
            cwd=EXAMPLES,
            env={**os.environ, "PYTHONPATH": ""},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(program.communicate(), 60)

    assert (program.returncode, errors.decode()) == (0, "")
    assert expected in output.decode()
