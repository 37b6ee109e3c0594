"""A service that is stopped, not ended: its connections stay open, and nothing answers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from inference_client import AsyncClient, AsyncStream, UnavailableError
from tests.support.processes import server_process
from tests.support.service import MODEL_ID

LIMIT = 15.0
"""Seconds within which either side notices that the other one is frozen."""


async def test_callers_notice_a_frozen_service(tmp_path: Path) -> None:
    """A stream that was running, and a call that begins after the freeze, end as unavailable."""
    async with (
        server_process("serve", tmp_path, grpc_address="127.0.0.1:0", backend="simulated") as service,
        AsyncClient(service.address, retries=0) as client,
    ):
        stream = client.stream(model=MODEL_ID, prompt="@sim(stall_at=3) hello", timeout=90)
        await anext(stream)
        service.signal(signal.SIGSTOP)
        frozen = time.monotonic()
        try:
            delays = await asyncio.gather(
                _until_unavailable(_read(stream), frozen),
                _until_unavailable(client.generate(model=MODEL_ID, prompt="a", timeout=90), frozen),
            )
        finally:
            service.signal(signal.SIGCONT)

    print(f"a frozen service was noticed after {delays[0]:.1f} s and {delays[1]:.1f} s")
    assert max(delays) < LIMIT + 2


async def _read(stream: AsyncStream) -> None:
    async for _ in stream:
        pass


async def _until_unavailable(call: Coroutine[Any, Any, object], since: float) -> float:
    """Seconds until a call failed as unavailable."""
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(call, 80)
    return time.monotonic() - since
