from __future__ import annotations

import asyncio
import time

import pytest

from inference_client import DeadlineError, Health, Model, NotFoundError, TokenCount, UnavailableError
from tests.inference_client.conftest import Caller, CallerFactory
from tests.support.scripted import Running, ScriptedService

MODEL = Model("m", ("alias",), 7, "us", 64, 100, "", 0)


async def test_models_are_listed(caller: Caller) -> None:
    assert await caller.call("list_models") == (MODEL,)


async def test_a_model_is_described(caller: Caller, service: ScriptedService) -> None:
    assert await caller.call("get_model", "m", api_key="k", request_id="r1", timeout=20) == MODEL

    seen = service.seen[0]
    assert (seen.metadata["authorization"], seen.metadata["x-request-id"]) == ("Bearer k", "r1")
    assert seen.time_remaining is not None
    assert seen.time_remaining <= 20.01


async def test_an_unknown_model_is_not_found(caller: Caller) -> None:
    with pytest.raises(NotFoundError):
        await caller.call("get_model", "nobody")


async def test_tokens_are_counted(caller: Caller, service: ScriptedService) -> None:
    count = await caller.call("count_tokens", "m", messages=[{"role": "user", "content": "hi"}])

    assert count == TokenCount(2, (5, 6))
    assert service.seen[0].request.chat.messages[0].content == "hi"


async def test_a_count_needs_one_input(caller: Caller) -> None:
    with pytest.raises(TypeError, match="exactly one"):
        await caller.call("count_tokens", "m")


@pytest.mark.parametrize(
    ("name", "state"),
    [("SERVING", Health.SERVING), ("NOT_SERVING", Health.NOT_SERVING), ("UNKNOWN", Health.UNKNOWN)],
)
async def test_health_is_the_status_of_the_service(
    caller: Caller, running: Running, name: str, state: Health
) -> None:
    await running.set_health(name)

    assert await caller.call("health") is state


async def test_the_health_of_an_unknown_service_is_unknown(caller: Caller) -> None:
    assert await caller.call("health", "nobody") is Health.SERVICE_UNKNOWN


async def test_a_health_check_is_not_retried(make_caller: CallerFactory) -> None:
    """A probe must be quick and report the first failure."""
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await make_caller("127.0.0.1:1", retries=50).call("health")

    assert time.monotonic() - began < 10


async def test_wait_ready_returns_when_the_service_is_ready(caller: Caller, running: Running) -> None:
    await running.set_health("NOT_SERVING")
    waiting = asyncio.create_task(caller.call("wait_ready", 20))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await running.set_health("SERVING")

    await asyncio.wait_for(waiting, 10)


async def test_wait_ready_times_out(make_caller: CallerFactory, running: Running) -> None:
    await running.set_health("NOT_SERVING")
    caller, alone = make_caller(running.target), make_caller("127.0.0.1:1")
    # Connected, and refused: what follows takes a moment even on a busy machine.
    assert await caller.call("health") is Health.NOT_SERVING
    with pytest.raises(UnavailableError):
        await alone.call("health")

    with pytest.raises(DeadlineError, match=r"not ready within 0\.6 s; last seen: not_serving"):
        await caller.call("wait_ready", 0.6)
    with pytest.raises(DeadlineError, match="not reachable"):
        await alone.call("wait_ready", 0.6)
