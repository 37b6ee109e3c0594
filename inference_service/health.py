"""Health that tells the truth, by grpc.health.v1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from inference_service.backends.types import BackendStats

_log = structlog.get_logger(__name__)


class State(Enum):
    """What the service can do now."""

    STARTING = "starting"
    READY = "ready"
    STALLED = "stalled"
    """Work is outstanding and the engine makes no progress."""
    DRAINING = "draining"
    DEAD = "dead"
    """The engine is gone for good."""


class HealthMonitor:
    """Derives the state from the engine's forward progress and publishes it for every service.

    A busy engine is healthy for as long as its last step is younger than `stall_seconds`; no probe
    ever queues behind requests.
    """

    PERIOD = 0.25
    """Seconds between two looks at the engine."""

    def __init__(
        self, services: Sequence[str], read_stats: Callable[[], BackendStats], stall_seconds: float
    ) -> None:
        self.servicer = health_aio.HealthServicer()
        self._services = ("", *services)
        self._read_stats = read_stats
        self._stall_seconds = stall_seconds
        self._lifecycle = State.STARTING
        self.state = State.STARTING
        self.died = asyncio.Event()

    async def enter(self, state: State) -> None:
        """Move the life cycle on: STARTING, READY, DRAINING."""
        self._lifecycle = state
        await self.refresh()

    async def watch(self) -> None:
        """Look at the engine until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self.PERIOD)

    async def refresh(self) -> None:
        state = self._judge()
        if state is not self.state:
            _log.info("health", state=state.value, before=self.state.value)
        self.state = state
        if state is State.DEAD:
            self.died.set()
        ready = state is State.READY
        told = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self.servicer.set(service, told)

    def _judge(self) -> State:
        if self._lifecycle is State.STARTING:
            return State.STARTING
        stats = self._read_stats()
        if not stats.alive:
            return State.DEAD
        if self._lifecycle is State.READY and stats.last_step_age > self._stall_seconds:
            return State.STALLED
        return self._lifecycle
