"""An engine behind the connection of a frontend: the contract of every backend, and the end of each side."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from inference_service.backends.base import Backend, EngineDeadError, EngineGrammarError, Steps
from inference_service.backends.simulated.backend import SimulatedBackend
from inference_service.backends.types import BackendDescription, BackendStats, EngineRequest, EngineStep
from inference_service.constraints.grammar import Grammar
from inference_service.constraints.nodes import Literal, Node, Repeat
from inference_service.frontends.host import Frontend, Host
from inference_service.frontends.remote import RemoteBackend, RemoteEngine
from inference_service.prompt.tokenizer import Tokenizer
from inference_service.scheduling.admission import Admission
from inference_service.scheduling.loaded_engine import EngineFacts, StartedEngine
from tests.inference_service.backends.contract import (
    CONTEXT_LENGTH,
    BackendContract,
    FreshBackend,
    next_step,
    request,
)
from tests.inference_service.backends.contract_options import OptionsContract
from tests.support.calls import eventually
from tests.support.service import service_config

pytestmark = pytest.mark.asyncio(loop_scope="module")


class ConnectedBackend(Backend):
    """A backend whose calls cross a connection to `inner`, as those of a frontend do."""

    host: Host
    frontend: Frontend
    engine: RemoteEngine
    remote: RemoteBackend

    def __init__(self, inner: Backend, directory: Path) -> None:
        self._inner = inner
        self._directory = directory
        self._is_started = False

    async def start(self) -> BackendDescription:
        description = await self._inner.start()
        self.host = Host(service_config(), self._directory)
        admission = Admission(capacity=description.max_concurrency, queue_limit=0)
        facts = EngineFacts(Path(), "model", description, created=0)
        self.host.serve(StartedEngine(self._inner, admission, facts))
        self.frontend, self.engine = Frontend(self.host, lambda: None, lambda _: None), RemoteEngine()
        ours, theirs = socket.socketpair()
        await self.frontend.connect(ours)
        await self.engine.remote.connect(theirs)
        self.remote = RemoteBackend(self.engine, description)
        self._is_started = True
        return await self.remote.start()

    def check_grammar(self, grammar: Grammar) -> None:
        self.remote.check_grammar(grammar)

    def generate(self, engine_request: EngineRequest) -> Steps:
        return self.remote.generate(engine_request)

    def stats(self) -> BackendStats:
        """As if the report of now had arrived; they come a few times a second."""
        self.engine.on_state(self.host.state())
        return self.remote.stats()

    async def close(self) -> None:
        if self._is_started:
            await self.remote.close()
            await self.host.close()
        await self._inner.close()


@pytest.fixture(scope="module")
def make_backend(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> FreshBackend:
    directory = tmp_path_factory.mktemp("metrics")

    def make() -> Backend:
        inner = SimulatedBackend(
            tokenizer, context_length=CONTEXT_LENGTH, max_concurrency=4, prefill_tps=5_000, decode_tps=1_000
        )
        return ConnectedBackend(inner, directory)

    return make


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(make_backend: FreshBackend) -> AsyncIterator[Backend]:
    backend = make_backend()
    await backend.start()
    yield backend
    await backend.close()


@pytest.fixture
def fresh_backend(make_backend: FreshBackend) -> FreshBackend:
    return make_backend


class TestRemoteContract(BackendContract):
    """The contract of every backend across a connection."""


class TestRemoteOptions(OptionsContract):
    """The contract of the options across a connection."""


@pytest_asyncio.fixture(loop_scope="module")
async def connected(make_backend: FreshBackend) -> AsyncIterator[ConnectedBackend]:
    backend = make_backend()
    assert isinstance(backend, ConnectedBackend)
    await backend.start()
    yield backend
    await backend.close()


async def collect_rest(steps: Steps) -> list[EngineStep]:
    return [step async for step in steps]


async def test_a_frontend_whose_engine_process_is_gone_has_a_dead_engine(
    connected: ConnectedBackend, tokenizer: Tokenizer
) -> None:
    some = request(tokenizer.encode_text("hello"), 3_000)
    async with aclosing(connected.generate(some)) as steps:
        await next_step(steps)
        await connected.frontend.close()
        with pytest.raises(EngineDeadError):
            await collect_rest(steps)
    assert not connected.stats().alive
    with pytest.raises(EngineDeadError):
        await next_step(connected.generate(some))


async def test_what_a_frontend_runs_is_aborted_when_the_frontend_is_gone(
    connected: ConnectedBackend, tokenizer: Tokenizer
) -> None:
    steps = connected.generate(request(tokenizer.encode_text("hello"), 3_000))
    await next_step(steps)
    assert connected.host.state().stats.running == 1
    await connected.remote.close()
    await eventually(lambda: connected.host.state().stats.running == 0)
    assert not connected.host.frontends
    await steps.aclose()


async def test_a_grammar_crosses_once_and_is_forgotten_with_its_last_request(
    connected: ConnectedBackend,
) -> None:
    grammar = Grammar({"root": Literal("yes")})
    for _ in range(2):
        await asyncio.to_thread(connected.check_grammar, grammar)
    assert len(connected.frontend._grammars) == 1
    del grammar
    gc.collect()
    await eventually(lambda: not connected.frontend._grammars)


async def test_a_grammar_that_is_nested_too_deep_is_refused(connected: ConnectedBackend) -> None:
    node: Node = Literal("a")
    for _ in range(100_000):
        node = Repeat(node, 0, None)
    with pytest.raises(EngineGrammarError, match="nested too deep"):
        await asyncio.to_thread(connected.check_grammar, Grammar({"root": node}))
