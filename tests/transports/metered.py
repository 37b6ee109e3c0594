"""Runs both servers as processes, and reads their metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from inference_service.config import cache_home
from lodestream.top import Samples, read_samples
from tests.support.parts import free_port
from tests.support.processes import server_process

CACHE = cache_home()
"""The ordinary cache, whatever home a test has."""


@dataclass(frozen=True, slots=True)
class MeteredServers:
    """The addresses of the servers and of the service's metrics, as `host:port`."""

    service: str
    bridge: str
    metrics: str
    """The address of the service's metrics; the bridge serves its metrics on its own address."""

    async def scrape(self, address: str, **headers: str) -> httpx.Response:
        """Read the metrics of one server."""
        async with httpx.AsyncClient() as http:
            return await http.get(f"http://{address}/metrics", headers=headers)

    async def samples(self, address: str) -> Samples:
        """Every sample of one server, by name and labels."""
        reply = await self.scrape(address)
        assert reply.status_code == 200, reply.text
        return read_samples(reply.text)

    async def until(self, name: str, is_there: Callable[[float], bool], **labels: str) -> Samples:
        """Wait until the sum of the service's samples of a name fulfils a condition. Return all samples."""
        async with asyncio.timeout(15):
            while True:
                samples = await self.samples(self.metrics)
                if is_there(total(samples, name, **labels)):
                    return samples
                await asyncio.sleep(0.05)


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples with a name and, among others, these labels."""
    return sum(
        value
        for (found, having), value in samples.items()
        if found == name and labels.items() <= dict(having).items()
    )


@asynccontextmanager
async def metered_servers(
    home: Path, *, of_bridge: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[MeteredServers]:
    """Run both servers on the simulated engine.

    Args:
        home: of the servers' processes.
        of_bridge: further settings of the bridge.
        **settings: those of the service.

    """
    metrics = f"127.0.0.1:{free_port()}"
    given = {
        "backend": "simulated",
        "model": "smollm2-135m-instruct",
        "grpc_address": "127.0.0.1:0",
        "cache_dir": CACHE,
        "metrics_address": metrics,
        "requests_per_minute": 0,
        **settings,
    }
    async with (
        server_process("serve", home, **given) as service,
        server_process(
            "bridge",
            home,
            http_address="127.0.0.1:0",
            grpc_address=service.address,
            **(of_bridge or {}),
        ) as bridge,
    ):
        yield MeteredServers(service.address, bridge.address, metrics)
