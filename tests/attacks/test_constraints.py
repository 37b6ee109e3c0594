"""Hostile constraints must not delay other callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.service import MODEL_ID
from tests.support.transports import Transports, running_transports

pytestmark = pytest.mark.asyncio(loop_scope="module")

NESTED = r"((\w{1,60}){1,60}){1,60}"
BYSTANDER_SECONDS = 20.0
"""Far above the time of a short reply on a busy machine, far below the 95 s that the attack once caused."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def transports() -> AsyncIterator[Transports]:
    async with running_transports(backend="llama_cpp", threads=1, max_concurrency=2) as both:
        yield both


async def test_nested_bounded_repetition_does_not_delay_others(transports: Transports) -> None:
    """A `guided_regex` of three nested repetitions once kept the engine busy for 95 seconds."""
    hostile = {
        "model": MODEL_ID,
        "prompt": "Write:",
        "guided_regex": NESTED,
        "max_tokens": 300,
        "temperature": 1.5,
    }
    attack = asyncio.create_task(transports.by_stream(hostile))
    await asyncio.sleep(1.0)
    began = time.monotonic()

    reply = await transports.by_rest({"model": MODEL_ID, "prompt": "One, two,", "max_tokens": 4})

    assert reply.error is None, reply.message
    assert time.monotonic() - began < BYSTANDER_SECONDS
    answer = await asyncio.wait_for(attack, 100)
    assert answer.error in (None, "invalid_value"), answer.message
