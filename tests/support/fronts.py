"""A service of several processes, with a connection to each of its fronts."""

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
class FrontChannel:
    """A connection to one front."""

    front: psutil.Process
    channel: grpc.aio.Channel
    generate_stub: generate_grpc.GenerateServiceAsyncStub
    usage_stub: usage_grpc.UsageServiceAsyncStub


@dataclass(frozen=True, slots=True)
class FrontedService:
    """A running `lodestream serve --frontends N`."""

    server: ServerProcess
    metrics: str
    """The address of the metrics, as `host:port`."""

    def fronts(self) -> list[psutil.Process]:
        """The processes that answer gRPC."""
        return [child for child in psutil.Process(self.server.process.pid).children() if _is_front(child)]

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
async def fronted_service(home: Path, **settings: Any) -> AsyncIterator[FrontedService]:
    """Serve with two fronts over the simulated engine until the context ends.

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
        yield FrontedService(server, metrics)


@asynccontextmanager
async def front_channels(service: FrontedService) -> AsyncIterator[Sequence[FrontChannel]]:
    """One connection to each front: the kernel chooses, so this tries until each has one."""
    found: dict[int, FrontChannel] = {}
    fronts = service.fronts()
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(found) < len(fronts):
                before = {front.pid: _connections(front) for front in fronts}
                channel = await stack.enter_async_context(connect(service.server.address))
                await channel.channel_ready()
                front = next(front for front in fronts if _connections(front) > before[front.pid])
                stubs = generate_grpc.GenerateServiceStub(channel), usage_grpc.UsageServiceStub(channel)
                if front.pid in found:
                    # One that has just been started may not listen yet.
                    await asyncio.sleep(0.1)
                found.setdefault(front.pid, FrontChannel(front, channel, *stubs))
        yield list(found.values())


def _connections(front: psutil.Process) -> int:
    return sum(c.status == psutil.CONN_ESTABLISHED for c in front.net_connections("tcp"))


def _is_front(child: psutil.Process) -> bool:
    try:
        return any("spawn_main" in word for word in child.cmdline())
    except psutil.NoSuchProcess:
        # It has just ended.
        return False
