from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference_client import AsyncClient, DeadlineError, FinishReason, StopCause, Summary
from inference_client.call import rounded_for_the_wire
from tests.inference_client.conftest import Caller, CallerFactory
from tests.support.scripted import (
    Event,
    Response,
    Running,
    ScriptedService,
    delta,
    finished,
    started,
    summary,
    whole_answer,
)


async def _sleep(request: Any, context: Any) -> Response:
    await asyncio.sleep(60)
    return whole_answer()


async def _silent(request: Any, context: Any) -> AsyncIterator[Event]:
    yield started()
    await asyncio.sleep(60)


async def test_a_call_ends_at_its_deadline(caller: Caller, service: ScriptedService) -> None:
    service.answer, service.stream = _sleep, _silent
    began = time.monotonic()
    with pytest.raises(DeadlineError):
        await caller.call("generate", model="m", prompt="p", timeout=0.2)
    with pytest.raises(DeadlineError) as caught:
        await caller.events(model="m", prompt="p", timeout=0.2)

    assert 0.4 <= time.monotonic() - began < 10
    assert caught.value.code == "deadline_exceeded"
    assert len(service.seen) == 2


async def test_the_timeout_is_sent_unchanged(make_caller: CallerFactory, running: Running) -> None:
    """The client's timeout applies to calls without their own."""
    caller = make_caller(running.target, timeout=50)
    await caller.call("generate", model="m", prompt="p", timeout=20)
    await caller.call("generate", model="m", prompt="p")

    first, second = (seen.time_remaining for seen in running.service.seen)
    assert first is not None
    assert second is not None
    assert 19 < first <= 20.001
    assert 49 < second <= 50.001


@pytest.mark.parametrize("timeout", [0.5, 1, 1.234, 9.995, 20, 50.05, 60, 120, 123.4, 300, 3600, 80_000])
async def test_client_and_service_have_the_same_deadline(
    client: AsyncClient, service: ScriptedService, timeout: float
) -> None:
    """Otherwise an answer right before the service's deadline would arrive after the client's."""
    await client.list_models()  # An open connection adds no delay.
    await client.generate(model="m", prompt="p", timeout=timeout)

    theirs = service.seen[1].time_remaining
    assert theirs is not None
    assert theirs <= rounded_for_the_wire(timeout) + 0.015
    assert timeout - 0.01 <= rounded_for_the_wire(timeout) <= timeout * 1.01


async def test_without_a_timeout_there_is_no_deadline(caller: Caller, service: ScriptedService) -> None:
    await caller.call("generate", model="m", prompt="p")

    remaining = service.seen[0].time_remaining
    assert remaining is None or remaining > 3600


async def test_an_answer_right_before_the_deadline_arrives(caller: Caller, service: ScriptedService) -> None:
    """A service that ends its stream a little before the deadline can send the whole answer."""

    async def stream(request: Any, context: Any) -> AsyncIterator[Event]:
        yield started()
        yield delta("as far as it got")
        await asyncio.sleep(context.time_remaining() - 0.3)
        yield finished(reason=2, cause=5)
        yield summary()

    service.stream = stream
    events = await caller.events(model="m", prompt="p", timeout=1)

    assert isinstance(events[-1], Summary)
    assert (events[-2].reason, events[-2].cause) == (FinishReason.LENGTH, StopCause.DEADLINE)  # type: ignore[union-attr]


async def test_a_longer_timeout_is_not_sent_again(caller: Caller, service: ScriptedService) -> None:
    """The gRPC core reuses the timeout header of another call if it differs by less than 3 %."""
    for timeout in (60, 59, 58.5):
        await caller.call("generate", model="m", prompt="p", timeout=timeout)

    for seen, timeout in zip(service.seen, (60, 59, 58.5), strict=True):
        assert seen.time_remaining is not None
        assert seen.time_remaining <= timeout + 0.1


@pytest.mark.parametrize("timeout", [0, -1.0])
async def test_a_timeout_that_has_passed_is_not_sent(
    caller: Caller, service: ScriptedService, timeout: float
) -> None:
    with pytest.raises(DeadlineError):
        await caller.call("generate", model="m", prompt="p", timeout=timeout)
    with pytest.raises(DeadlineError):
        await caller.events(model="m", prompt="p", timeout=timeout)

    assert service.seen == []


async def test_a_timeout_of_nan_is_refused(caller: Caller) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        await caller.call("generate", model="m", prompt="p", timeout=math.nan)


@pytest.mark.parametrize("timeout", [1e18, math.inf])
async def test_a_timeout_beyond_the_clock_is_long(caller: Caller, timeout: float) -> None:
    assert (await caller.call("generate", model="m", prompt="p", timeout=timeout)).text == "Hello"
