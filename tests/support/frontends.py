"""A service of several processes, with a connection to each of its frontends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from lodestream.inference.v1 import generate_service_pb2_grpc as generate_grpc
from lodestream.inference.v1 import usage_service_pb2_grpc as usage_grpc

from inference_service.config import cache_home
from lodestream.top import Samples
from tests.support.parts import free_port
from tests.support.processes import ServerProcess, server_process
from tests.support.service import MODEL_ID, connect
from tests.transports.metered import MeteredServers, total

TIMEOUT_SECONDS = 60.0
"""Seconds that processes may take."""


@dataclass(frozen=True, slots=True)
class FrontendChannel:
    """A connection to one frontend."""

    frontend: psutil.Process
    channel: grpc.aio.Channel
    generate_stub: generate_grpc.GenerateServiceAsyncStub
    usage_stub: usage_grpc.UsageServiceAsyncStub


@dataclass(frozen=True, slots=True)
class ServiceWithFrontends:
    """A running `lodestream serve --frontends N`."""

    server: ServerProcess
    metrics: str
    """The address of the metrics, as `host:port`."""

    def frontends(self) -> list[psutil.Process]:
        """The processes that answer gRPC."""
        return [child for child in psutil.Process(self.server.process.pid).children() if _is_frontend(child)]

    async def samples(self) -> Samples:
        """Every sample of the metrics."""
        return await self._metered.samples(self.metrics)

    async def until(self, name: str, wanted: float) -> None:
        """Wait until the sum of the samples with a name is so much."""
        await self._metered.until(name, lambda value: value == wanted)

    @property
    def _metered(self) -> MeteredServers:
        return MeteredServers(self.server.address, "", self.metrics)

    async def total(self, name: str, **labels: str) -> float:
        """The sum of the samples with a name and these labels."""
        return total(await self.samples(), name, **labels)


@asynccontextmanager
async def service_with_frontends(home: Path, **settings: Any) -> AsyncIterator[ServiceWithFrontends]:
    """Serve with two frontends over the simulated engine until the context ends.

    Settings replace those of here; None leaves one out.
    """
    metrics = f"127.0.0.1:{free_port()}"
    given = {
        "backend": "simulated",
        "model": MODEL_ID,
        "grpc_address": "127.0.0.1:0",
        "metrics_address": metrics,
        "cache_dir": cache_home(),
        "frontends": 2,
        "receipts_url": home / "receipts.db",
        **settings,
    }
    given = {name: value for name, value in given.items() if value is not None}
    async with server_process("serve", home, **given) as server:
        yield ServiceWithFrontends(server, metrics)


@asynccontextmanager
async def frontend_channels(service: ServiceWithFrontends) -> AsyncIterator[Sequence[FrontendChannel]]:
    """One connection to each frontend: the kernel chooses, so this tries until each has one."""
    found: dict[int, FrontendChannel] = {}
    frontends = service.frontends()
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(found) < len(frontends):
                before = {frontend.pid: _connections(frontend) for frontend in frontends}
                channel = await stack.enter_async_context(connect(service.server.address))
                await channel.channel_ready()
                frontend = next(
                    frontend for frontend in frontends if _connections(frontend) > before[frontend.pid]
                )
                stubs = generate_grpc.GenerateServiceStub(channel), usage_grpc.UsageServiceStub(channel)
                if frontend.pid in found:
                    # One that has just been started may not listen yet.
                    await asyncio.sleep(0.1)
                found.setdefault(frontend.pid, FrontendChannel(frontend, channel, *stubs))
        yield list(found.values())


def _connections(frontend: psutil.Process) -> int:
    return sum(c.status == psutil.CONN_ESTABLISHED for c in frontend.net_connections("tcp"))


def _is_frontend(child: psutil.Process) -> bool:
    try:
        return any("spawn_main" in word for word in child.cmdline())
    except psutil.NoSuchProcess:
        # It has just ended.
        return False
