"""The health service, grpc.health.v1: its state follows the progress of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc as pb_grpc

from inference_service.backends.types import BackendStats
from inference_service.scheduling.admission import AdmissionControl
from lodestream_common.failed_keys import host_of_peer

_log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class State(Enum):
    """The state of the service."""

    STARTING = "starting"
    READY = "ready"
    STALLED = "stalled"
    """Work is outstanding and the engine makes no progress."""
    DRAINING = "draining"
    DEAD = "dead"
    """The engine has failed and does not come back."""


_REFUSALS = {State.STALLED: "its engine makes no progress", State.DEAD: "its engine is down"}


def admit_by_state(admission: AdmissionControl, state: State) -> None:
    """Refuse requests at once, waiting ones too, while the engine makes no progress."""
    reason = _REFUSALS.get(state)
    if reason is None:
        admission.resume()
    else:
        admission.suspend(reason)


class HealthServicer(pb_grpc.HealthServicer):
    """Reports one status for every service, by grpc.health.v1.

    The asyncio servicer of grpcio-health-checking is not used: it forgets all watchers of a service when one
    of them leaves, and waits for each watcher to read.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = frozenset(services)
        self._serving = False
        self._changed = asyncio.Event()

    def set_serving(self, *, serving: bool) -> None:
        """Set the status, and send it to all watchers if it changed."""
        if serving is not self._serving:
            self._serving = serving
            self._changed.set()
            self._changed = asyncio.Event()

    async def Check(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:  # noqa: N802
        is_known = request.service in self._services
        _log_probe("Check", context, "ok" if is_known else "not_found")
        if not is_known:
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such service.")
        return pb.HealthCheckResponse(status=self._status_of(request.service))

    async def Watch(self, request: pb.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        sent = None
        _log_probe("Watch", context, "ok")
        while True:
            changed, status = self._changed, self._status_of(request.service)
            if status != sent:
                await context.write(pb.HealthCheckResponse(status=status))
                sent = status
            await changed.wait()

    def _status_of(self, service: str) -> int:
        if service not in self._services:
            return pb.HealthCheckResponse.SERVICE_UNKNOWN
        return pb.HealthCheckResponse.SERVING if self._serving else pb.HealthCheckResponse.NOT_SERVING


def _log_probe(method: str, context: Context, outcome: str) -> None:
    """Probes are frequent, so their lines have the level debug."""
    _log.debug("rpc", method=method, client=host_of_peer(context.peer()), outcome=outcome)


class HealthMonitor:
    """Derives the state from the progress of the engine, and publishes it for every service.

    A busy engine is healthy as long as its last step is younger than `stall_seconds`. A health check never
    waits behind requests.
    """

    PERIOD = 0.25
    """Seconds between two readings of the engine."""

    def __init__(
        self,
        services: Sequence[str],
        read_stats: Callable[[], BackendStats],
        stall_seconds: float,
        on_change: Callable[[State], None] = lambda _: None,
    ) -> None:
        """Args: on_change: is called with each new state."""
        self.servicer = HealthServicer(("", *services))
        self._read_stats = read_stats
        self._stall_seconds = stall_seconds
        self._on_change = on_change
        self._lifecycle = State.STARTING
        self.state = State.STARTING
        self.died = asyncio.Event()

    def enter(self, state: State) -> None:
        """Set the state of the life cycle: STARTING, READY or DRAINING."""
        self._lifecycle = state
        self.refresh()

    async def watch(self) -> None:
        """Refresh the state until cancelled."""
        while True:
            self.refresh()
            await asyncio.sleep(self.PERIOD)

    def refresh(self) -> None:
        """Read the engine, and publish the state if it changed."""
        state = self._read_state()
        if state is not self.state:
            _log.info("health", state=state.value, before=self.state.value)
            self.state = state
            self._on_change(state)
        if state is State.DEAD:
            self.died.set()
        self.servicer.set_serving(serving=state is State.READY)

    def _read_state(self) -> State:
        if self._lifecycle is State.STARTING:
            return State.STARTING
        stats = self._read_stats()
        if not stats.alive:
            return State.DEAD
        if self._lifecycle is State.READY and stats.last_step_age > self._stall_seconds:
            return State.STALLED
        return self._lifecycle
