"""The TensorRT-LLM backend on the double, with Llama 3.1's vocabulary: contract and own behaviour."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inference_service.backends.base import Backend, EngineDeadError, EngineRequestError, Steps
from inference_service.backends.tensorrt_llm import request as call
from inference_service.backends.tensorrt_llm.backend import TensorRtLlmBackend
from inference_service.backends.types import EngineFinish
from inference_service.models.engine_directory import read_engine_model
from inference_service.prompt.tokenizer import Tokenizer
from tests.inference_service.backends.contract import (
    CONTEXT_LENGTH,
    BackendContract,
    FreshBackend,
    abandon,
    collect,
    ids_of,
    next_step,
    released,
    request,
    sampling,
    text_of,
)
from tests.inference_service.backends.contract_options import OptionsContract
from tests.support import llama31
from tests.support.tensorrt import make_engine

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("double")]

SPEEDS = {"prefill_tps": 5_000, "tps": 400}

MakeBackend = Callable[..., TensorRtLlmBackend]


@pytest.fixture(scope="module")
def engine(llama31_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_engine(tmp_path_factory.mktemp("engines") / "llama", llama31_files, script=SPEEDS)


@pytest.fixture(scope="module")
def tokenizer(engine: Path) -> Tokenizer:
    return read_engine_model(engine).tokenizer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(engine: Path, tokenizer: Tokenizer, double: object) -> AsyncIterator[Backend]:
    backend = TensorRtLlmBackend(engine, tokenizer, context_length=CONTEXT_LENGTH, max_concurrency=4)
    await backend.start()
    yield backend
    await backend.close()


@pytest_asyncio.fixture(loop_scope="module")
async def make_backend(
    llama31_files: Path, tokenizer: Tokenizer, tmp_path: Path
) -> AsyncIterator[MakeBackend]:
    """Makes backends over engines that follow a script; closes them after the test."""
    made: list[TensorRtLlmBackend] = []

    def make(max_concurrency: int | None = None, context_length: int = 4096, **script: Any) -> Backend:
        directory = make_engine(tmp_path / f"engine-{len(made)}", llama31_files, script=script)
        made.append(
            TensorRtLlmBackend(
                directory, tokenizer, context_length=context_length, max_concurrency=max_concurrency
            )
        )
        return made[-1]

    yield make  # type: ignore[misc]
    for backend in made:
        await backend.close()


@pytest.fixture
def llm_class(double: object) -> Any:
    return import_module("tensorrt_llm._tensorrt_engine").LLM


@pytest.fixture
def fresh_backend(make_backend: MakeBackend) -> FreshBackend:
    return lambda: make_backend(4, **SPEEDS)


class TestTensorRtLlmContract(BackendContract):
    """The contract of every backend on the double."""


class TestTensorRtLlmOptions(OptionsContract):
    """The contract of the options, except for alternatives, which this engine refuses."""

    @pytest.fixture
    def refused(self) -> frozenset[str]:
        return frozenset({"top_logprobs"})


class TestOutput:
    @pytest.mark.parametrize("end_id", sorted(llama31.END_IDS))
    async def test_the_end_token_is_reported(
        self, make_backend: MakeBackend, tokenizer: Tokenizer, end_id: int
    ) -> None:
        """The engine's output never has the end id, and stop words are removed from it."""
        backend = make_backend(end_id=end_id)
        await backend.start()
        prompt = tokenizer.encode_text("Once upon a time")

        ids = ids_of(await collect(backend, request(prompt, 200, ignore_eos=False)))

        assert ids[-1] == end_id
        assert ids[:-1][-len(prompt) :] == prompt

    async def test_all_ready_responses_become_one_step(self, backend: Backend, tokenizer: Tokenizer) -> None:
        engine_request = request(tokenizer.encode_text("Once upon a time"), 200)
        async with aclosing(backend.generate(engine_request)) as steps:
            first = await next_step(steps)
            await released(backend)
            second = await next_step(steps)

        assert first.token_count >= 1
        assert second.token_count > 10
        assert second.token_count == len(second.token_ids) == 200 - first.token_count

    async def test_cached_tokens_are_unknown(self, make_backend: MakeBackend, tokenizer: Tokenizer) -> None:
        """The library reports 0 for every prompt, also for a reused one."""
        backend = make_backend()
        await backend.start()
        prompt = tokenizer.encode_text("one two three four " * 30)

        first = await collect(backend, request(prompt, 4))
        second = await collect(backend, request(prompt, 4))

        assert [step.cached_tokens for step in (*first, *second)] == [None] * len([*first, *second])

    async def test_a_limit_at_the_end_of_sequence_decides_the_finish(
        self, make_backend: MakeBackend, tokenizer: Tokenizer
    ) -> None:
        """A limit right before the end token is MAX_TOKENS; a limit at the end token is END_OF_SEQUENCE."""
        backend = make_backend()
        await backend.start()
        prompt = tokenizer.encode_text("Once upon a time")
        whole = ids_of(await collect(backend, request(prompt, 200, ignore_eos=False)))

        before = await collect(backend, request(prompt, len(whole) - 1, ignore_eos=False))
        at = await collect(backend, request(prompt, len(whole), ignore_eos=False))

        assert (ids_of(before), before[-1].finish) == (whole[:-1], EngineFinish.MAX_TOKENS)
        assert (ids_of(at), at[-1].finish) == (whole, EngineFinish.END_OF_SEQUENCE)


class TestFailures:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [("fail_at=3", "failed"), ("timeout_at=3", "out of time"), ("cancel_at=3", "cancelled")],
    )
    async def test_a_failed_request_raises_and_the_engine_continues(
        self, backend: Backend, tokenizer: Tokenizer, fault: str, reason: str
    ) -> None:
        steps = backend.generate(request(tokenizer.encode_text(f"@sim({fault}) hello"), 50))
        got: list[int] = []
        with pytest.raises(EngineRequestError, match=reason):
            await _read_into(got, steps)

        assert len(got) == 3
        await released(backend)
        assert len(ids_of(await collect(backend, request(tokenizer.encode_text("hello"), 5)))) == 5

    async def test_a_request_that_the_library_refuses_raises(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        """The service checks lengths before. A request that is too long all the same fails alone."""
        for prompt in (tokenizer.encode_text("hello") * 9000, [9906] * 8192, []):
            with pytest.raises(EngineRequestError):
                await collect(backend, request(prompt, 5))
        await released(backend)

        [*_, last] = await collect(backend, request([9906] * 8191, 1))

        assert last.finish is EngineFinish.MAX_TOKENS

    async def test_a_dead_engine_fails_running_and_new_requests(
        self, make_backend: MakeBackend, tokenizer: Tokenizer
    ) -> None:
        """A dead engine sends nothing to the readers of running requests."""
        backend = make_backend(tps=50)
        await backend.start()
        waiting = [
            asyncio.create_task(collect(backend, request(tokenizer.encode_text("hello"), 3_000)))
            for _ in range(3)
        ]
        with pytest.raises(EngineDeadError):
            await collect(backend, request(tokenizer.encode_text("@sim(die_at=2)")))

        for reader in waiting:
            with pytest.raises(EngineDeadError):
                await asyncio.wait_for(reader, 5.0)
        assert not backend.stats().alive
        assert backend.stats().running == 0
        with pytest.raises(EngineDeadError):
            await collect(backend, request(tokenizer.encode_text("hello")))

    async def test_requests_cancelled_by_a_dying_engine_fail_as_engine_dead(
        self, make_backend: MakeBackend, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = make_backend(tps=20)
        await backend.start()
        steps = backend.generate(request(tokenizer.encode_text("@sim(cancel_at=4)"), 50))
        await next_step(steps)
        executor: Any = backend._engine._llm._executor  # type: ignore[union-attr]
        monkeypatch.setattr(executor, "is_shutdown", lambda: True)

        with pytest.raises(EngineDeadError):
            await _read_into([], steps)

    async def test_closing_does_not_wait_for_an_engine_that_hangs(
        self, make_backend: MakeBackend, llm_class: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered, shutdown = threading.Event(), llm_class.shutdown

        def hang(llm: Any) -> None:
            answered.wait(30)
            shutdown(llm)

        backend = make_backend()
        await backend.start()
        monkeypatch.setattr("inference_service.backends.tensorrt_llm.backend.SHUTDOWN_SECONDS", 0.2)
        monkeypatch.setattr(llm_class, "shutdown", hang)

        await asyncio.wait_for(backend.close(), 5)

        answered.set()


class TestAborts:
    async def test_a_thousand_aborted_requests_leave_nothing_in_the_engine(
        self, make_backend: MakeBackend, tokenizer: Tokenizer
    ) -> None:
        """No slot, task, thread, queued response or KV block is left."""
        backend = make_backend(prefill_tps=20_000, tps=500)
        await backend.start()
        prompt = tokenizer.encode_text("one two three ") * 20
        await collect(backend, request(prompt, 4))
        await released(backend)
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()

        async def abandon_many(lane: int) -> None:
            for number in range(25):
                await abandon(backend, request(prompt, 2_000), after=(lane * number % 17) / 200)

        await asyncio.gather(*(abandon_many(lane) for lane in range(40)))
        await released(backend)

        executor: Any = backend._engine._llm._executor  # type: ignore[union-attr]
        assert not executor._results
        assert not executor._running
        assert not executor._waiting
        assert executor._cache.stats()["usedNumBlocks"] == 0
        assert len(asyncio.all_tasks()) <= tasks
        assert threading.active_count() <= threads
        assert len(ids_of(await collect(backend, request(prompt, 8)))) == 8

    async def test_a_slot_counts_until_the_engine_has_ended_the_request(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        steps = backend.generate(request(tokenizer.encode_text("@sim(ignore_abort=0.5) hello"), 3_000))
        await next_step(steps)

        await steps.aclose()

        assert (backend.stats().running, backend.stats().aborts_pending) == (1, 1)
        await released(backend)
        assert backend.stats().aborts_pending == 0

    async def test_an_unanswered_abort_times_out(
        self, make_backend: MakeBackend, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(call, "ABORT_SECONDS", 0.2)
        backend = make_backend(tps=100)
        await backend.start()
        steps = backend.generate(request(tokenizer.encode_text("@sim(ignore_abort=60) hello"), 3_000))
        await next_step(steps)

        await steps.aclose()

        await released(backend)

    async def test_finished_request_is_not_aborted(
        self, backend: Backend, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        aborted: list[int] = []
        executor: Any = backend._engine._llm._executor  # type: ignore[attr-defined]
        monkeypatch.setattr(executor, "abort_request", aborted.append)

        await collect(backend, request(tokenizer.encode_text("hello"), 5))
        await released(backend)

        assert not aborted


class TestStatistics:
    async def test_statistics_have_the_engine_s_queue_and_cache(
        self, make_backend: MakeBackend, tokenizer: Tokenizer
    ) -> None:
        """The KV cache holds one request of this length at a time."""
        backend = make_backend(tps=20, kv_blocks=100)
        await backend.start()
        assert backend.stats().kv_blocks_used is None
        prompt = tokenizer.encode_text("hello")
        readers = [asyncio.create_task(collect(backend, request(prompt, 3_000))) for _ in range(3)]

        await _until(lambda: (backend.stats().waiting or 0) == 2)

        stats = backend.stats()
        assert stats.running == 3
        assert (stats.kv_blocks_used, stats.kv_blocks_free) == (94, 6)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await released(backend)
        await _until(lambda: (backend.stats().waiting, backend.stats().kv_blocks_used) == (0, 0))

    async def test_reading_statistics_does_not_delay_streams(
        self, make_backend: MakeBackend, tokenizer: Tokenizer, llm_class: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both of the library's calls block, so the backend calls it in a separate thread."""
        threads: list[threading.Thread] = []
        get_stats = llm_class.get_stats

        def spy(llm: Any, timeout: float) -> Any:
            threads.append(threading.current_thread())
            return get_stats(llm, timeout)

        monkeypatch.setattr(llm_class, "get_stats", spy)
        backend = make_backend(tps=100)
        await backend.start()
        await collect(backend, request(tokenizer.encode_text("hello"), 20))
        await _until(lambda: bool(threads))
        gaps: list[float] = []
        begun = time.monotonic()
        while (now := time.monotonic()) - begun < 2.5:
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - now)

        assert threading.main_thread() not in threads
        assert max(gaps) < 1.5

    async def test_an_engine_without_statistics_is_served(
        self,
        make_backend: MakeBackend,
        tokenizer: Tokenizer,
        llm_class: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.delattr(llm_class, "get_stats")
        backend = make_backend()
        await backend.start()

        steps = await collect(backend, request(tokenizer.encode_text("hello"), 8))

        assert len(ids_of(steps)) == 8
        assert backend.stats().kv_blocks_used is None


class TestLoop:
    async def test_concurrent_answers_belong_to_their_prompts(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        """Two hundred requests share a batch of four slots."""
        prompts = [f"number {n} of two hundred" for n in range(200)]

        async def ask(prompt: str) -> str:
            engine_request = request(tokenizer.encode_text(prompt), 60, ignore_eos=False)
            return text_of(await collect(backend, engine_request), tokenizer)

        answers = await asyncio.gather(*map(ask, prompts))

        assert all(answer.endswith(f"] {prompt}") for answer, prompt in zip(answers, prompts, strict=True))

    async def test_seed_of_zero_is_a_seed(self, backend: Backend, tokenizer: Tokenizer) -> None:
        prompt = tokenizer.encode_text("hello")

        def seeded(seed: int) -> Any:
            return request(prompt, 8, chosen_by=sampling(temperature=1.0, seed=seed))

        zero, one = [ids_of(await collect(backend, seeded(seed))) for seed in (0, 1)]

        assert zero != one


async def _read_into(got: list[int], steps: Steps) -> None:
    async for step in steps:
        got += step.token_ids


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come true within 10 seconds")
