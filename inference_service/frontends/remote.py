"""The engine's process as the server of a frontend sees it: a backend, an admission, and accounting."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count

from prometheus_client import CollectorRegistry

from inference_service.accounting import Accounting
from inference_service.backends.base import Backend, EngineGrammarError, Steps
from inference_service.backends.types import BackendDescription, BackendStats, EngineRequest
from inference_service.config import ServiceConfig
from inference_service.constraints.grammar import Grammar
from inference_service.errors import NotReady
from inference_service.frontends.calling import Ended, Remote, RemoteValues
from inference_service.frontends.host import EngineState
from inference_service.frontends.link import dumped
from inference_service.metrics import CallMetrics
from inference_service.models import loader
from inference_service.models.loader import ModelFile
from inference_service.receipts import METHODS, receipt_of
from inference_service.rpc.auth import Caller
from inference_service.rpc.call import RpcCall
from inference_service.rpc.quotas import QuotaControl, request_limit
from inference_service.scheduling.admission import AdmissionControl, Deadline, Permit, Tenant
from inference_service.scheduling.loaded_engine import EngineFacts, LoadedEngine, policy_of, served_model
from inference_service.scheduling.workers import FairPool
from lodestream_common.address import Address
from lodestream_common.keys import Priority
from lodestream_common.receipts import Receipt

_SILENCE_SECONDS = 1.0
"""Seconds after which a process that reports nothing counts as one that makes no progress."""


class RemoteEngine:
    """The connection to the engine's process, and what that reports."""

    def __init__(self) -> None:
        self.remote = Remote(self.on_state)
        self._state = EngineState(BackendStats(running=0), 0, 0, 0.0)
        self._model: tuple[EngineFacts, loader.LoadedModel] | None = None

    @property
    def state(self) -> EngineState:
        """The last report."""
        return self._state

    def on_state(self, state: EngineState) -> None:
        """Keep a report."""
        self._state = state

    def interval(self) -> float:
        """The stream interval that the engine's process needs, in seconds."""
        return self._state.interval

    def stats(self) -> BackendStats:
        """The state of the engine: dead if its process is gone, without progress if that is silent."""
        if self.remote.is_lost:
            return BackendStats(running=0, alive=False)
        stats = self._state.stats
        silence = self.remote.silence
        return (
            replace(stats, last_step_age=stats.last_step_age + silence)
            if silence > _SILENCE_SECONDS
            else stats
        )

    async def read_model(self) -> tuple[EngineFacts, loader.LoadedModel]:
        """Wait until the engine has started, and read its model's files.

        Raises:
            OperatorError: the files changed meanwhile.
            EngineDeadError: the engine's process is gone.

        """
        if self._model is None:
            facts: EngineFacts
            facts, state = await self.remote.call("find_engine")
            self.on_state(state)
            file = ModelFile(facts.model_id, facts.path, None)
            self._model = facts, await asyncio.to_thread(loader.load, file)
        return self._model

    async def load(self, config: ServiceConfig, workers: FairPool, compilers: FairPool) -> LoadedEngine:
        """The engine as the server takes it; see `read_model`.

        Raises:
            OperatorError: the filter's rules cannot be read.

        """
        policy = policy_of(config)
        facts, loaded = await self.read_model()
        model = served_model(config, loaded, facts, workers, compilers)
        return LoadedEngine(
            RemoteBackend(self, facts.description), model, RemoteAdmission(self, facts), policy
        )


class RemoteBackend(Backend):
    """The engine in the other process. A grammar crosses once, when it is checked."""

    def __init__(self, engine: RemoteEngine, description: BackendDescription) -> None:
        self._engine = engine
        self._remote = engine.remote
        self._description = description
        self._loop = asyncio.get_running_loop()
        self._numbers = count()
        self._grammars: weakref.WeakKeyDictionary[Grammar, int] = weakref.WeakKeyDictionary()
        """Those that the other process knows, with their numbers."""

    async def start(self) -> BackendDescription:
        """The engine has started already."""
        return self._description

    def check_grammar(self, grammar: Grammar) -> None:
        if grammar not in self._grammars:
            try:
                data = dumped(grammar)
            except RecursionError:
                raise EngineGrammarError("it is nested too deep") from None
            asyncio.run_coroutine_threadsafe(self._check(grammar, data), self._loop).result()

    async def generate(self, request: EngineRequest) -> Steps:
        number = None
        if request.grammar is not None:
            if request.grammar not in self._grammars:
                await asyncio.to_thread(self.check_grammar, request.grammar)
            number = self._grammars[request.grammar]
        plain = replace(
            request, prompt_ids=list(request.prompt_ids), logit_bias=dict(request.logit_bias), grammar=None
        )
        with self._remote.open("generate", plain, number) as values:
            try:
                pause = yield await values.first()
                while True:
                    pause = yield await values.pull(pause)
            except Ended:
                return

    def stats(self) -> BackendStats:
        return self._engine.stats()

    async def close(self) -> None:
        await self._remote.close()

    async def _check(self, grammar: Grammar, data: bytes) -> None:
        number = next(self._numbers)
        await self._remote.call("check_grammar", number, data)
        self._grammars[grammar] = number
        weakref.finalize(grammar, self._forget, number).atexit = False

    def _forget(self, number: int) -> None:
        # A grammar is freed in any thread, maybe after the loop has ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._remote.note, "forget_grammar", number)


class RemoteAdmission(AdmissionControl):
    """The permits of all frontends, which the engine's process gives."""

    def __init__(self, engine: RemoteEngine, facts: EngineFacts) -> None:
        self._engine = engine
        self._remote = engine.remote
        self._capacity = facts.description.max_concurrency
        self._numbers = count()
        self._refusal: str | None = None
        self._closed = False

    @property
    def running(self) -> int:
        """The permits that all frontends held at the last report."""
        return self._engine.state.permits

    @property
    def waiting(self) -> int:
        """The requests of all frontends that waited at the last report."""
        return self._engine.state.waiting

    def close(self) -> None:
        """Refuse new requests of this frontend."""
        self._closed = True

    def suspend(self, reason: str) -> None:
        """Refuse new requests; those that wait are refused by the engine's process."""
        self._refusal = reason

    def resume(self) -> None:
        """Admit requests again."""
        self._refusal = None

    def check_open(self) -> None:
        """See `Admission`."""
        if self._closed:
            raise NotReady("it is shutting down")
        if self._refusal is not None:
            raise NotReady(self._refusal)

    async def check_space(self, tenant: Tenant, priority: Priority = Priority.INTERACTIVE) -> None:
        """See `Admission`. Where permits were free lately, the check is left to `reserve`."""
        if self.running >= self._capacity:
            await self._remote.call("check_space", tenant, priority)

    async def estimate(self, tenant: Tenant, priority: Priority = Priority.INTERACTIVE) -> float:
        """See `Admission`."""
        seconds: float = await self._remote.call("estimate", tenant, priority)
        return seconds

    @asynccontextmanager
    async def reserve(
        self,
        tenant: Tenant,
        permits: int,
        deadline: Deadline | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> AsyncIterator[Permit]:
        """See `Admission`."""
        if not permits:
            yield partial(self._hold, deque())
            return
        self.check_open()
        number = next(self._numbers)
        with self._remote.open("reserve", number, tenant, permits, deadline, priority) as reservation:
            # Started with the reservation, they cost no further turn of the engine's process.
            holds = deque([self._remote.start("hold", number) for _ in range(permits)])
            try:
                await reservation.first()
                yield partial(self._hold, holds)
            finally:
                for hold in holds:
                    self._remote.stop(hold)

    @asynccontextmanager
    async def _hold(self, holds: deque[RemoteValues]) -> AsyncIterator[int]:
        hold = holds.popleft()
        try:
            yield await hold.first()
        finally:
            self._remote.stop(hold)


class RemoteQuotas(QuotaControl):
    """The quotas of keys, which the engine's process counts for all frontends.

    Args:
        remote: the engine's process.
        requests_per_minute: of a key that has no number of its own; 0: no limit.

    """

    def __init__(self, remote: Remote, requests_per_minute: int) -> None:
        self._remote = remote
        self._requests_per_minute = requests_per_minute

    async def count_request(self, caller: Caller) -> Mapping[str, str]:
        """See `Quotas`."""
        metadata: Mapping[str, str] = {}
        if request_limit(caller, self._requests_per_minute):
            metadata = await self._remote.call("count_request", caller)
        return metadata

    async def reserve_tokens(
        self, caller: Caller, tokens: int, *, only_check: bool = False
    ) -> Mapping[str, str]:
        """See `Quotas`."""
        metadata: Mapping[str, str] = {}
        if caller.limits.tokens_per_minute:
            metadata = await self._remote.call("reserve_tokens", caller, tokens, only_check)
        return metadata

    def charge_tokens(self, caller: Caller, tokens: int) -> None:
        """See `Quotas`."""
        if caller.limits.tokens_per_minute:
            self._remote.note("charge_tokens", caller, tokens)

    @asynccontextmanager
    async def running(self, caller: Caller) -> AsyncIterator[None]:
        """See `Quotas`."""
        if not caller.limits.max_concurrent:
            yield
            return
        with self._remote.open("running", caller) as counted:
            await counted.first()
            yield

    async def close(self) -> None:
        """Nothing is counted here."""


class RemoteAccounting(Accounting):
    """The accounting in the engine's process. RPCs are counted here, in files that it reads.

    Args:
        remote: the engine's process.
        config: the settings.
        keeps_receipts: whether receipts are kept.

    """

    def __init__(self, remote: Remote, config: ServiceConfig, *, keeps_receipts: bool) -> None:
        self._remote = remote
        self._keeps_receipts = keeps_receipts
        self._quotas = RemoteQuotas(remote, config.requests_per_minute)
        self._calls: CallMetrics | None = None
        if config.metrics_address is not None:
            self._calls = CallMetrics(CollectorRegistry(), with_keys=config.metrics_keys)

    @property
    def quotas(self) -> RemoteQuotas:
        """The quotas of the keys."""
        return self._quotas

    @property
    def metrics_address(self) -> Address | None:
        """The engine's process serves the metrics."""
        return None

    def open(self, address: Address) -> None:
        """The engine's process has begun already."""

    def observe(self, call: RpcCall, outcome: str) -> None:
        """Count an RPC that ended here."""
        if self._calls is not None:
            self._calls.observe(call, outcome)
        if self._keeps_receipts and call.method in METHODS:
            self._remote.note("add_receipt", receipt_of(call, outcome))

    def note_interval(self, seconds: float) -> None:
        """Keep the stream interval of this process, which is never below that of the engine's process."""
        if self._calls is not None:
            self._calls.stream_interval.set(seconds)

    async def find_receipt(self, request_id: str, key_id: str) -> Receipt | None:
        """See `LocalAccounting`."""
        receipt: Receipt | None = await self._remote.call("find_receipt", request_id, key_id)
        return receipt

    async def close(self) -> None:
        """Nothing waits here."""
