"""One key sends requests that take long to parse, and another key sends small ones.

Before, requests were parsed in the order of their arrival: eight prompts of 4 MB in flight, all refused in
the end, delayed another key's prompt of 3 kB from 16 ms to 12 s, and eight heavy schemas a small one from 34
ms to 13 s. Now a prompt that cannot fit is refused before it is tokenized, keys take turns, and one thread is
always left to the others.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_client import InferenceError
from tests.support.keyed_servers import keyed_servers
from tests.support.messages import grpc_request
from tests.support.transports import Callers
from tests.transports.feature_requests import completion

pytestmark = pytest.mark.alone

_log = logging.getLogger(__name__)

IN_FLIGHT = 8
PAUSE = 1.0
"""Seconds between two requests of an attacker; it shares this process with servers and the other caller."""
PROBES = 15
TIMEOUT_SECONDS = 60.0
SMALL = completion("word " * 600, max_tokens=1)
SMALL_SCHEMA = completion(
    max_tokens=1, guided_json={"type": "object", "properties": {"x": {"type": "boolean"}}}
)
HOPELESS = completion("word " * 800_000, max_tokens=1)
LONGEST = completion("word " * 130_000, max_tokens=1)
"""650 kB: nearly the largest prompt that is tokenized before it is refused."""


def _heavy_schema() -> dict[str, Any]:
    """A schema of about 50 kB that takes a second or two to compile."""
    part = {"type": "object", "properties": {f"p{n}": {"type": "string", "maxLength": 90} for n in range(12)}}
    return {"type": "object", "properties": {f"q{n}": part for n in range(60)}}


HEAVY_SCHEMA = completion(max_tokens=1, guided_json=_heavy_schema())


@asynccontextmanager
async def _attack(attacker: Callers, body: Mapping[str, Any]) -> AsyncIterator[None]:
    """Keep IN_FLIGHT requests in flight."""

    message = grpc_request(body)

    async def repeat(number: int) -> None:
        # Every request differs, so that no cache helps.
        own = GenerateRequest()
        own.CopyFrom(message)
        own.user = str(number)
        while True:
            with suppress(InferenceError):
                await attacker.client.generate_request(own, api_key=attacker.key)
            await asyncio.sleep(PAUSE)

    tasks = [asyncio.create_task(repeat(number)) for number in range(IN_FLIGHT)]
    try:
        await asyncio.sleep(0.5)
        yield
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _latency(caller: Callers, body: Mapping[str, Any]) -> float:
    """The median latency of sequential requests, in seconds."""
    took = []
    for _ in range(PROBES):
        began = time.monotonic()
        answer = await asyncio.wait_for(caller.by_grpc(body), TIMEOUT_SECONDS)
        took.append(time.monotonic() - began)
        assert answer.error is None
    return statistics.median(took)


@pytest.mark.parametrize(
    ("heavy", "small"),
    [(HOPELESS, SMALL), (LONGEST, SMALL), (HEAVY_SCHEMA, SMALL_SCHEMA)],
    ids=["4 MB prompts", "650 kB prompts", "heavy schemas"],
)
async def test_heavy_requests_of_one_key_do_not_delay_another(
    tmp_path: Path, heavy: dict[str, Any], small: dict[str, Any]
) -> None:
    async with keyed_servers(tmp_path, "heavy", "light") as served:
        light = served.callers["light"]
        alone = await _latency(light, small)
        async with _attack(served.callers["heavy"], heavy):
            beside = await _latency(light, small)
    _log.info("alone %.0f ms, beside the heavy ones %.0f ms", alone * 1e3, beside * 1e3)

    # The bound of one second allows for other work on the machine.
    assert beside < 1.0
