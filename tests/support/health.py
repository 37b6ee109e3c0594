"""Watches the health of a service under test."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 30.0


class Watcher:
    """One Watch stream."""

    def __init__(self, channel: grpc.aio.Channel, service: str = "") -> None:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        self._call = stub.Watch(health_pb2.HealthCheckRequest(service=service))

    async def next(self) -> int:
        """The next status of the stream."""
        response = await asyncio.wait_for(self._call.read(), TIMEOUT_SECONDS)
        return int(response.status)

    async def serving(self) -> bool:
        """Whether the next status of the stream is SERVING."""
        return await self.next() == health_pb2.HealthCheckResponse.SERVING

    async def leave(self) -> None:
        """End the stream."""
        self._call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._call.read()
