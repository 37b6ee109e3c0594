"""The engine's process as a host of the frontends: gives them the engine, its permits, and the accounting."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from inference_service.accounting import LocalAccounting
from inference_service.backends.base import Steps
from inference_service.backends.types import BackendStats, EngineRequest
from inference_service.config import ServiceConfig
from inference_service.constraints.grammar import Grammar
from inference_service.frontends import link
from inference_service.frontends.calling import Responder
from inference_service.metrics import Reading
from inference_service.rpc.auth import Caller
from inference_service.rpc.health import HealthMonitor, State, admit_by_state
from inference_service.scheduling import loaded_engine
from inference_service.scheduling.admission import Deadline, Permit, Tenant
from inference_service.scheduling.loaded_engine import EngineFacts, StartedEngine
from inference_service.scheduling.workers import FairPool
from lodestream_common.keys import Priority
from lodestream_common.pacing import Pacer

_REPORT_PERIOD, _IDLE_PERIOD = 0.05, 0.25
"""Seconds between two reports to the frontends, while permits are held and while none is."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """The state of the engine's process, as it is reported to the frontends."""

    stats: BackendStats
    permits: int
    """Permits that are held."""
    waiting: int
    """Requests that wait for one."""
    interval: float
    """The stream interval that the process needs, in seconds."""


class Host:
    """The engine and what all frontends share.

    Args:
        config: the settings.
        calls_directory: where the frontends count their RPCs.

    Raises:
        OperatorError: a setting is wrong.

    """

    def __init__(self, config: ServiceConfig, calls_directory: Path) -> None:
        self._config = config
        self.accounting = LocalAccounting(config, self._reading, calls_directory)
        self.health = HealthMonitor((), self._stats, config.stall_timeout, self._on_state)
        self.frontends: set[Frontend] = set()
        """Those that are connected."""
        self._started: asyncio.Future[StartedEngine] = asyncio.get_running_loop().create_future()
        self._pacer = Pacer(config.max_stream_interval, config.stream_pacing)
        self._tasks: list[asyncio.Task[None]] = []

    async def load(self) -> EngineFacts:
        """Find the model and load the engine.

        Raises:
            OperatorError: something is missing, broken or unsupported.

        """
        loader = FairPool(1, "lodestream-loader", 1)
        try:
            started = await loaded_engine.start(
                self._config, await loaded_engine.load_model(self._config, loader)
            )
        finally:
            loader.close()
        self.serve(started)
        return started.facts

    def serve(self, started: StartedEngine) -> None:
        """Offer a started engine to the frontends, and watch it."""
        self._started.set_result(started)
        self.health.enter(State.READY)
        self._tasks = [
            asyncio.create_task(self.health.watch(), name="health"),
            asyncio.create_task(self._report(), name="report"),
        ]

    @property
    def engine(self) -> StartedEngine:
        """The started engine."""
        return self._started.result()

    async def wait_started(self) -> None:
        """Wait until the engine has started."""
        await asyncio.shield(self._started)

    def state(self) -> EngineState:
        """The state of the engine now."""
        admission = self.engine.admission
        # The pacer reads the load only while it is asked.
        interval = self._pacer.interval() if admission.running else 0.0
        return EngineState(self._stats(), admission.running, admission.waiting, interval)

    @property
    def is_alive(self) -> bool:
        """Whether the engine can serve."""
        return self._stats().alive

    async def close(self) -> None:
        """Close the frontends' connections, the engine and the accounting. Safe to call at any time."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(
            *self._tasks, *(frontend.close() for frontend in tuple(self.frontends)), return_exceptions=True
        )
        if self._started.done():
            await self.engine.backend.close()
        await self.accounting.close()

    def report(self) -> None:
        """Report the state of the engine to the frontends."""
        state = self.state()
        for frontend in self.frontends:
            frontend.responder.report(state)

    async def _report(self) -> None:
        while True:
            self.report()
            await asyncio.sleep(_REPORT_PERIOD if self.engine.admission.running else _IDLE_PERIOD)

    def _stats(self) -> BackendStats:
        return self.engine.backend.stats()

    def _on_state(self, state: State) -> None:
        admit_by_state(self.engine.admission, state)
        self.report()

    def _reading(self) -> Reading | None:
        """The state of the service now, for a scrape."""
        if not self._started.done():
            return None
        facts, admission = self.engine.facts, self.engine.admission
        state = self.health.state.value
        return Reading(facts.model_id, facts.description, self._stats(), admission.waiting, state)


class Frontend:
    """One frontend, as the engine's process sees it. What it started ends with its connection.

    Args:
        host: the engine and what all frontends share.
        on_ready: is called once the frontend answers requests.
        on_failure: is called with the reason why the frontend cannot serve.

    """

    def __init__(self, host: Host, on_ready: Callable[[], None], on_failure: Callable[[str], None]) -> None:
        self._host = host
        self._grammars: dict[int, Grammar] = {}
        self._permits: dict[int, Permit] = {}
        accounting = host.accounting
        offers = (
            self.find_engine,
            self.check_grammar,
            self.generate,
            self.check_space,
            self.estimate,
            self.reserve,
            self.hold,
            self.running,
            accounting.quotas.count_request,
            self.reserve_tokens,
            accounting.find_receipt,
        )
        self.responder = Responder(
            {offer.__name__: offer for offer in offers},
            {
                "ready": on_ready,
                "failed": on_failure,
                "forget_grammar": self.forget_grammar,
                "charge_tokens": accounting.quotas.charge_tokens,
                "add_receipt": accounting.add_receipt,
            },
            lambda: host.frontends.discard(self),
        )

    async def connect(self, ours: socket.socket) -> None:
        """Begin to answer the frontend over one end of a socket pair."""
        await self.responder.connect(ours)
        self._host.frontends.add(self)

    async def close(self) -> None:
        """End the connection, and abort what the frontend runs."""
        await self.responder.close()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, after everything that the frontend sent."""
        await self.responder.closed.wait()

    async def find_engine(self) -> tuple[EngineFacts, EngineState]:
        """Wait until the engine has started; its facts and its state then."""
        await self._host.wait_started()
        return self._host.engine.facts, self._host.state()

    async def check_grammar(self, number: int, data: bytes) -> None:
        """Check a grammar, and keep it under a number for requests to come."""

        def check() -> Grammar:
            grammar: Grammar = link.loaded(data)
            self._host.engine.backend.check_grammar(grammar)
            return grammar

        self._grammars[number] = await asyncio.to_thread(check)

    def forget_grammar(self, number: int) -> None:
        """Drop a grammar; no request comes with it any more."""
        self._grammars.pop(number, None)

    def generate(self, request: EngineRequest, grammar: int | None) -> Steps:
        """Generate; `grammar` is the number of one that was checked."""
        if grammar is not None:
            request = replace(request, grammar=self._grammars[grammar])
        return self._host.engine.backend.generate(request)

    async def check_space(self, tenant: Tenant, priority: Priority) -> None:
        """See `Admission`."""
        await self._host.engine.admission.check_space(tenant, priority)

    async def estimate(self, tenant: Tenant, priority: Priority) -> float:
        """See `Admission`."""
        return await self._host.engine.admission.estimate(tenant, priority)

    async def reserve(
        self, number: int, tenant: Tenant, permits: int, deadline: Deadline | None, priority: Priority
    ) -> AsyncGenerator[None, None]:
        """Take the permits of a request, and keep them under a number until the generator is closed."""
        async with self._host.engine.admission.reserve(tenant, permits, deadline, priority) as permit:
            self._permits[number] = permit
            try:
                yield
            finally:
                del self._permits[number]

    async def hold(self, number: int) -> AsyncGenerator[int, None]:
        """Wait for a permit of a reservation, and hold it until the generator is closed.

        It ends at once where the reservation was refused.
        """
        permit = self._permits.get(number)
        if permit is not None:
            async with permit() as running:
                yield running

    async def reserve_tokens(self, caller: Caller, tokens: int, only_check: bool) -> Mapping[str, str]:
        """See `Quotas`."""
        return await self._host.accounting.quotas.reserve_tokens(caller, tokens, only_check=only_check)

    async def running(self, caller: Caller) -> AsyncGenerator[None, None]:
        """Count a generation of a key until the generator is closed."""
        async with self._host.accounting.quotas.running(caller):
            yield
