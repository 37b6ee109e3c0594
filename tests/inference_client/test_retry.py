from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode

from inference_client import ClosedError, DeadlineError, InferenceError, UnavailableError
from inference_client import call as call_module
from inference_client.call import RetryPolicy
from inference_client.errors import QueueFullError
from tests.inference_client.conftest import Caller, CallerFactory
from tests.support.scripted import (
    HELLO,
    Event,
    Response,
    Running,
    ScriptedService,
    delta,
    error_info,
    eventually,
    refuse,
    retry_info,
    started,
    whole_answer,
)

UNAVAILABLE = StatusCode.UNAVAILABLE


def failing(service: ScriptedService, times: int, *details: Any, code: StatusCode = UNAVAILABLE) -> None:
    """Make the service refuse the first calls."""

    async def answer(request: Any, context: Any) -> Response:
        if len(service.seen) <= times:
            await refuse(context, code, "Not now.", *details)
        return whole_answer()

    async def stream(request: Any, context: Any) -> AsyncIterator[Event]:
        if len(service.seen) <= times:
            await refuse(context, code, "Not now.", *details)
        for event in HELLO:
            yield event

    service.answer, service.stream = answer, stream


async def test_unavailable_is_retried(caller: Caller, service: ScriptedService) -> None:
    """Every attempt has the same request id."""
    failing(service, 2)
    generation = await caller.call("generate", model="m", prompt="p", request_id="r1")

    assert generation.text == "Hello"
    assert [seen.metadata["x-request-id"] for seen in service.seen] == ["r1"] * 3


async def test_a_call_cancelled_by_the_service_is_retried(caller: Caller, service: ScriptedService) -> None:
    """gRPC's core drops calls as CANCELLED if too many wait."""
    failing(service, 2, code=StatusCode.CANCELLED)

    assert (await caller.call("generate", model="m", prompt="p")).text == "Hello"
    service.seen.clear()
    assert len(await caller.events(model="m", prompt="p")) == len(HELLO)


async def test_the_retry_timeout_allows_more_attempts_than_retries(
    make_caller: CallerFactory, running: Running
) -> None:
    failing(running.service, 8)
    caller = make_caller(running.target, retries=0, retry_timeout=60.0)

    assert (await caller.call("generate", model="m", prompt="p")).text == "Hello"
    running.service.seen.clear()
    assert len(await caller.events(model="m", prompt="p")) == len(HELLO)


async def test_within_the_retry_timeout_a_stream_without_output_is_retried(
    make_caller: CallerFactory, running: Running
) -> None:
    """The caller gets one `started` event for all attempts."""
    service = running.service

    async def stream(request: Any, context: Any) -> AsyncIterator[Event]:
        if len(service.seen) <= 2:
            yield started()
            await refuse(context, UNAVAILABLE, "Draining.", error_info("NOT_READY"))
        for event in HELLO:
            yield event

    service.stream = stream
    events = await make_caller(running.target, retry_timeout=60.0).events(model="m", prompt="p")

    assert len(service.seen) == 3
    assert len(events) == len(HELLO)


async def test_the_retry_timeout_ends_the_retries(make_caller: CallerFactory, running: Running) -> None:
    failing(running.service, 10_000)
    caller = make_caller(running.target, retries=0, retry_timeout=0.5)
    began = time.monotonic()

    with pytest.raises(UnavailableError):
        await caller.call("generate", model="m", prompt="p")

    assert 0.5 <= time.monotonic() - began < 10
    assert len(running.service.seen) > 2


async def test_a_stream_without_events_is_retried(caller: Caller, service: ScriptedService) -> None:
    failing(service, 2)
    events = await caller.events(model="m", prompt="p")

    assert len(events) == len(HELLO)
    assert len({seen.metadata["x-request-id"] for seen in service.seen}) == 1


async def test_every_method_is_retried(caller: Caller, service: ScriptedService) -> None:
    """This holds not only for generations; here the service starts later."""
    failing(service, 1)
    assert (await caller.call("generate", model="m", prompt="p")).text == "Hello"
    assert (await caller.call("list_models"))[0].id == "m"


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_retries_are_counted(make_caller: CallerFactory, running: Running, retries: int) -> None:
    failing(running.service, 99)
    with pytest.raises(UnavailableError):
        await make_caller(running.target, retries=retries).call("generate", model="m", prompt="p")

    assert len(running.service.seen) == retries + 1


async def test_a_stream_with_events_is_not_retried(caller: Caller, service: ScriptedService) -> None:
    """After the first event a second attempt could repeat output."""

    async def stream(request: Any, context: Any) -> AsyncIterator[Event]:
        yield started()
        await refuse(context, UNAVAILABLE, "Draining.", error_info("NOT_READY"))

    service.stream = stream
    with pytest.raises(UnavailableError):
        await caller.events(model="m", prompt="p")

    assert len(service.seen) == 1


async def test_a_stream_with_output_is_not_retried(caller: Caller, service: ScriptedService) -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[Event]:
        yield started()
        yield delta("a")
        await refuse(context, UNAVAILABLE, "Draining.", error_info("NOT_READY"))

    service.stream = stream
    with pytest.raises(UnavailableError):
        await caller.events(model="m", prompt="p")

    assert len(service.seen) == 1


@pytest.mark.parametrize(
    "code",
    [
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.INTERNAL,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNKNOWN,
    ],
)
async def test_other_errors_are_not_retried(
    caller: Caller, service: ScriptedService, code: StatusCode
) -> None:
    failing(service, 99, retry_info(0.01), code=code)
    with pytest.raises(InferenceError):
        await caller.call("generate", model="m", prompt="p")
    with pytest.raises(InferenceError):
        await caller.events(model="m", prompt="p")

    assert len(service.seen) == 2


async def test_the_service_s_retry_time_is_respected(caller: Caller, service: ScriptedService) -> None:
    failing(service, 2, error_info("NOT_READY"), retry_info(0.4))
    await caller.call("generate", model="m", prompt="p")

    first, second, third = (seen.at for seen in service.seen)
    assert second - first >= 0.4
    assert third - second >= 0.4


async def test_with_a_long_retry_time_the_error_is_raised(caller: Caller, service: ScriptedService) -> None:
    failing(service, 1, error_info("NOT_READY"), retry_info(60))
    began = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        await caller.call("generate", model="m", prompt="p")

    assert caught.value.retry_after == 60
    assert time.monotonic() - began < 10


async def test_with_a_retry_time_beyond_the_deadline_the_error_is_raised(
    caller: Caller, service: ScriptedService
) -> None:
    """The exception has the reason of the service, not a timeout."""
    failing(service, 99, error_info("NOT_READY"), retry_info(3))
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await caller.call("generate", model="m", prompt="p", timeout=2)

    assert time.monotonic() - began < 2
    assert len(service.seen) == 1


async def test_all_attempts_share_one_deadline(caller: Caller, service: ScriptedService) -> None:
    """Each attempt gets the remaining time."""
    failing(service, 2, error_info("NOT_READY"), retry_info(0.5))
    await caller.call("generate", model="m", prompt="p", timeout=20)

    left = [seen.time_remaining for seen in service.seen if seen.time_remaining is not None]
    assert len(left) == 3
    assert 19 < left[0] <= 20
    assert 0.9 < left[0] - left[2] < 10


@pytest.mark.parametrize("streams", [False, True])
async def test_closing_the_client_ends_a_pause_between_attempts(
    make_caller: CallerFactory, running: Running, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    monkeypatch.setattr(call_module, "_LONGEST_PAUSE", 120.0)
    failing(running.service, 99, error_info("NOT_READY"), retry_info(60))
    caller = make_caller(running.target)
    arguments = {"model": "m", "prompt": "p"}
    call = asyncio.create_task(
        caller.events(**arguments) if streams else caller.call("generate", **arguments)
    )
    await eventually(lambda: bool(running.service.seen))
    await asyncio.sleep(0.1)
    await caller.close()

    with pytest.raises(ClosedError):
        await asyncio.wait_for(call, 30)
    assert len(running.service.seen) == 1


class TestPolicy:
    """The lengths of the pauses."""

    ERROR = UnavailableError("x")

    def test_pauses_double_with_jitter(self) -> None:
        pauses = [RetryPolicy(9).pause(failed, self.ERROR, math.inf) for failed in (1, 2, 3, 4)]

        for pause, least in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=True):
            assert pause is not None
            assert least <= pause <= least * 1.25

    def test_the_service_s_retry_time_is_a_lower_bound(self) -> None:
        error = UnavailableError("x", retry_after=1.0)

        pauses = {RetryPolicy(9).pause(1, error, math.inf) for _ in range(50)}
        assert all(pause is not None and 1.0 <= pause <= 1.25 for pause in pauses)
        assert len(pauses) > 1

    def test_there_are_at_most_as_many_attempts_as_retries_allow(self) -> None:
        assert RetryPolicy(2).pause(2, self.ERROR, math.inf) is not None
        assert RetryPolicy(2).pause(3, self.ERROR, math.inf) is None

    def test_no_pause_exceeds_the_deadline(self) -> None:
        assert RetryPolicy(2).pause(1, self.ERROR, 0.05) is None

    @pytest.mark.parametrize("error", [QueueFullError("x", retry_after=0.1), DeadlineError("x")])
    def test_only_unavailable_is_retried(self, error: InferenceError) -> None:
        assert RetryPolicy(2).pause(1, error, math.inf) is None

    def test_a_negative_number_is_refused(self) -> None:
        with pytest.raises(ValueError, match="retries must be 0 or more"):
            RetryPolicy(-1)
