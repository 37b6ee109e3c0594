from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference_client import AsyncClient, Client, Event
from tests.support.scripted import Running, ScriptedService, serve


class Caller:
    """Calls `AsyncClient` and `Client` through the same methods."""

    def __init__(self, client: AsyncClient | Client) -> None:
        self.client = client

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.client, AsyncClient):
            return await getattr(self.client, method)(*args, **kwargs)
        return await asyncio.to_thread(getattr(self.client, method), *args, **kwargs)

    async def events(self, **kwargs: Any) -> list[Event]:
        """Read every event of `stream` up to the end or the error."""
        if isinstance(self.client, AsyncClient):
            async with self.client.stream(**kwargs) as stream:
                return [event async for event in stream]
        return await asyncio.to_thread(self._events, self.client, kwargs)

    async def close(self) -> None:
        await self.call("close")

    @staticmethod
    def _events(client: Client, kwargs: dict[str, Any]) -> list[Event]:
        with client.stream(**kwargs) as stream:
            return list(stream)


class CallerFactory:
    """Makes clients of one class, and closes them."""

    def __init__(self, kind: type[AsyncClient] | type[Client]) -> None:
        self._kind = kind
        self._made: list[Caller] = []

    def __call__(self, target: str, **options: Any) -> Caller:
        self._made.append(Caller(self._kind(target, **options)))
        return self._made[-1]

    async def close(self) -> None:
        for caller in self._made:
            await caller.close()


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
async def running(service: ScriptedService) -> AsyncIterator[Running]:
    async with serve(service) as running:
        yield running


@pytest.fixture
async def client(running: Running) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(running.target) as client:
        yield client


@pytest.fixture(params=[AsyncClient, Client], ids=["async", "sync"])
async def make_caller(request: pytest.FixtureRequest) -> AsyncIterator[CallerFactory]:
    make_caller = CallerFactory(request.param)
    yield make_caller
    await make_caller.close()


@pytest.fixture
def caller(make_caller: CallerFactory, running: Running) -> Caller:
    return make_caller(running.target)
