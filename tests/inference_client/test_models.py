from __future__ import annotations

import asyncio
import time

import pytest

from inference_client import DeadlineError, Health, Model, NotFoundError, TokenCount, UnavailableError
from tests.inference_client.conftest import Door, Transports
from tests.support.scripted import Running, ScriptedService

MODEL = Model("m", ("alias",), 7, "us", 64, 100, "", 0)


async def test_models_are_listed(door: Door) -> None:
    assert await door.call("list_models") == (MODEL,)


async def test_a_model_is_described(door: Door, service: ScriptedService) -> None:
    assert await door.call("get_model", "m", api_key="k", request_id="r1", timeout=20) == MODEL

    seen = service.seen[0]
    assert (seen.metadata["authorization"], seen.metadata["x-request-id"]) == ("Bearer k", "r1")
    assert seen.time_remaining is not None
    assert seen.time_remaining <= 20.01


async def test_an_unknown_model_is_not_found(door: Door) -> None:
    with pytest.raises(NotFoundError):
        await door.call("get_model", "nobody")


async def test_tokens_are_counted(door: Door, service: ScriptedService) -> None:
    count = await door.call("count_tokens", "m", messages=[{"role": "user", "content": "hi"}])

    assert count == TokenCount(2, (5, 6))
    assert service.seen[0].request.chat.messages[0].content == "hi"


async def test_a_count_wants_one_input(door: Door) -> None:
    with pytest.raises(TypeError, match="exactly one"):
        await door.call("count_tokens", "m")


@pytest.mark.parametrize(
    ("name", "state"),
    [("SERVING", Health.SERVING), ("NOT_SERVING", Health.NOT_SERVING), ("UNKNOWN", Health.UNKNOWN)],
)
async def test_health_is_what_the_service_says(
    door: Door, running: Running, name: str, state: Health
) -> None:
    await running.set_health(name)

    assert await door.call("health") is state


async def test_a_service_that_nobody_knows_is_unknown(door: Door) -> None:
    assert await door.call("health", "nobody") is Health.SERVICE_UNKNOWN


async def test_health_is_asked_once(transports: Transports) -> None:
    """A probe has to be quick, and must see the first failure."""
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await transports("127.0.0.1:1", retries=50).call("health")

    assert time.monotonic() - began < 10


async def test_wait_ready_returns_when_the_service_is(door: Door, running: Running) -> None:
    await running.set_health("NOT_SERVING")
    waiting = asyncio.create_task(door.call("wait_ready", 20))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await running.set_health("SERVING")

    await asyncio.wait_for(waiting, 10)


async def test_wait_ready_gives_up(transports: Transports, running: Running) -> None:
    await running.set_health("NOT_SERVING")
    with pytest.raises(DeadlineError, match=r"not ready within 0\.3 s; last seen: not_serving"):
        await transports(running.target).call("wait_ready", 0.3)
    with pytest.raises(DeadlineError, match="not reachable"):
        await transports("127.0.0.1:1").call("wait_ready", 0.3)
