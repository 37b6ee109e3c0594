from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import structlog

from tests.rest_bridge.running import RunningBridge, http_client, running_bridge
from tests.support.scripted import Running, ScriptedService, serve


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    """Log short tracebacks, since structlog's default format takes seconds."""
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()]
    )
    yield
    structlog.configure(**before)


@pytest.fixture
def service() -> ScriptedService:
    """The service behind the bridge, whose answers the test scripts."""
    return ScriptedService()


@pytest.fixture
async def running(service: ScriptedService) -> AsyncIterator[Running]:
    async with serve(service) as running:
        yield running


@pytest.fixture
async def bridge(running: Running) -> AsyncIterator[RunningBridge]:
    async with running_bridge(running.target) as bridge:
        yield bridge


@pytest.fixture
async def http(bridge: RunningBridge) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(bridge.url) as http:
        yield http
