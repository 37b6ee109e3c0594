"""A peer that is stopped by SIGSTOP: its connections stay open, and it does not answer."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from inference_client import AsyncClient, AsyncStream, UnavailableError
from tests.support import http2
from tests.support.calls import endless, eventually, is_free
from tests.support.processes import server_process
from tests.support.service import MODEL_ID, running_service

METHOD = "/lodestream.inference.v1.GenerateService/GenerateStream"
MAX_SECONDS = 15.0
"""Seconds within which either side notices that the other one is frozen."""


async def test_calls_to_a_frozen_service_fail_as_unavailable(tmp_path: Path) -> None:
    """Both a running stream and a call that starts after the freeze end as UNAVAILABLE."""
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
    assert max(delays) < MAX_SECONDS + 2


async def test_the_service_frees_the_slot_of_a_frozen_caller() -> None:
    """The caller answers no ping and reads nothing."""
    async with running_service(max_concurrency=1, stall_timeout=120) as service:
        host, _, port = service.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        message = endless("@sim(stall_at=3) hello").SerializeToString()
        writer.write(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0))
        writer.write(http2.call(METHOD, 1, message))
        await writer.drain()
        await eventually(lambda: service.loaded.admission.running == 1)
        frozen = time.monotonic()
        await eventually(lambda: is_free(service), 80)
        writer.close()

    print(f"a frozen caller was noticed after {time.monotonic() - frozen:.1f} s")
    assert time.monotonic() - frozen < MAX_SECONDS + 2


async def _read(stream: AsyncStream) -> None:
    async for _ in stream:
        pass


async def _until_unavailable(call: Coroutine[Any, Any, object], since: float) -> float:
    """Return the seconds until a call failed as UNAVAILABLE."""
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(call, 80)
    return time.monotonic() - since
