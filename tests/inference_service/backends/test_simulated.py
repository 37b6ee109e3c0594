"""The simulated engine: the contract of every backend, and scripted answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio

from inference_service.backends.base import Backend, EngineRequestError
from inference_service.backends.simulated.backend import SimulatedBackend
from inference_service.backends.types import EngineFinish
from inference_service.prompt.tokenizer import Tokenizer
from tests.inference_service.backends.contract import (
    CONTEXT_LENGTH,
    BackendContract,
    FreshBackend,
    collect,
    ids_of,
    next_step,
    request,
    text_of,
)
from tests.inference_service.backends.contract_options import OptionsContract, logprobs_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIST = 'root ::= "[" item ("," item)* "]"\nitem ::= "\\"" [a-z]+ "\\"" | root\n'


@pytest.fixture(scope="module")
def make_backend(tokenizer: Tokenizer) -> FreshBackend:
    return lambda: SimulatedBackend(
        tokenizer, context_length=CONTEXT_LENGTH, max_concurrency=4, prefill_tps=5_000, decode_tps=1_000
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(make_backend: FreshBackend) -> AsyncIterator[Backend]:
    backend = make_backend()
    await backend.start()
    yield backend
    await backend.close()


@pytest.fixture
def fresh_backend(make_backend: FreshBackend) -> FreshBackend:
    return make_backend


class TestSimulatedContract(BackendContract):
    """The contract of every backend on the simulated engine."""


class TestSimulatedOptions(OptionsContract):
    """The contract of the options, of which the simulated engine refuses none."""


class TestScript:
    async def answer_to(
        self, backend: Backend, tokenizer: Tokenizer, prompt: str, grammar: str | None = None
    ) -> str:
        engine_request = request(tokenizer.encode_text(prompt), 200, ignore_eos=False, grammar=grammar)
        steps = await collect(backend, engine_request)
        assert steps[-1].finish is EngineFinish.END_OF_SEQUENCE
        return text_of(steps, tokenizer)

    @pytest.mark.parametrize(
        "text", ['{"name": "f", "arguments": {"a": [1, 2], "b": "(x > y)\\n"}}', "", "two\nlines 😀", "@sim("]
    )
    async def test_scripted_answer_is_exact(self, backend: Backend, tokenizer: Tokenizer, text: str) -> None:
        assert await self.answer_to(backend, tokenizer, f"Please @say<<{text}>>. Thanks!") == text

    async def test_the_last_script_counts(self, backend: Backend, tokenizer: Tokenizer) -> None:
        assert await self.answer_to(backend, tokenizer, "@say<<one>> and then @say<<two>>") == "two"

    async def test_an_unterminated_script_is_ordinary_text(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        assert (await self.answer_to(backend, tokenizer, "@say<<one")).endswith("] @say<<one")

    async def test_a_prompt_may_have_a_script_and_a_fault(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        prompt = "@sim(ignore_cancel) @say<<fine>>"

        assert await self.answer_to(backend, tokenizer, prompt) == "fine"

    @pytest.mark.parametrize("script", ['["a"]', '[[["a","bc"]],"d"]'])
    async def test_a_script_that_the_grammar_generates_is_the_answer(
        self, backend: Backend, tokenizer: Tokenizer, script: str
    ) -> None:
        assert await self.answer_to(backend, tokenizer, f"@say<<{script}>>", LIST) == script

    @pytest.mark.parametrize("script", ["", '["a"', '["a"] ', "[1]", "[" * 2_000 + '"a"' + "]" * 2_000])
    async def test_grammar_wins_over_any_other_script(
        self, backend: Backend, tokenizer: Tokenizer, script: str
    ) -> None:
        assert await self.answer_to(backend, tokenizer, f"@say<<{script}>>", LIST) == '["a"]'

    @pytest.mark.parametrize(
        ("count", "fits"), [("a", False), ("aa", True), ("aaa", True), ("aaaa", True), ("aaaaa", False)]
    )
    async def test_a_grammar_with_counted_repetitions_limits_the_script(
        self, backend: Backend, tokenizer: Tokenizer, count: str, fits: bool
    ) -> None:
        answer = await self.answer_to(backend, tokenizer, f"@say<<{count}>>", 'root ::= "a"{2,4}\n')

        assert answer == (count if fits else "aa")


class TestOptions:
    async def test_several_forced_tokens_alternate(self, backend: Backend, tokenizer: Tokenizer) -> None:
        engine_request = request(
            tokenizer.encode_text("Hello"), 5, logit_bias={40: 100.0, 30: 100.0, 50: 99.0}
        )

        assert ids_of(await collect(backend, engine_request)) == [30, 40, 30, 40, 30]

    async def test_a_forced_end_token_takes_its_turn(self, backend: Backend, tokenizer: Tokenizer) -> None:
        end = max(tokenizer.eos_ids)
        engine_request = request(
            tokenizer.encode_text("Hello"), 9, ignore_eos=False, logit_bias={1_000: 100.0, end: 100.0}
        )

        assert ids_of(await collect(backend, engine_request)) == [end]

    async def test_an_answer_of_only_forbidden_tokens_continues_with_others(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        engine_request = request(tokenizer.encode_text("@say<<aa>>"), 5, ignore_eos=False)
        usual = ids_of(await collect(backend, engine_request))
        forbidden = dict.fromkeys([*usual, *tokenizer.eos_ids], -100.0)

        steps = await collect(
            backend, request(engine_request.prompt_ids, 5, ignore_eos=False, logit_bias=forbidden)
        )

        assert len(ids_of(steps)) == 5
        assert not set(ids_of(steps)) & set(forbidden)

    async def test_probabilities_are_powers_of_one_half(self, backend: Backend, tokenizer: Tokenizer) -> None:
        score = logprobs_of(await collect(backend, request(tokenizer.encode_text("Hello"), 1, logprobs=3)))[0]

        assert [math.exp(value) for _, value in score.top] == pytest.approx([1 / 2, 1 / 4, 1 / 8])
        assert [i - score.token_id for i, _ in score.top] == [0, 1, 2]


async def test_a_token_takes_the_configured_cpu_time(tokenizer: Tokenizer) -> None:
    backend = SimulatedBackend(tokenizer, context_length=512, max_concurrency=1, token_cost=0.002)
    await backend.start()
    before = time.thread_time()

    await collect(backend, request(tokenizer.encode_text("Hello"), 50))

    assert time.thread_time() - before >= 50 * 0.002


async def test_a_failure_interrupts_the_gathering(tokenizer: Tokenizer) -> None:
    backend = SimulatedBackend(
        tokenizer, context_length=512, max_concurrency=1, decode_tps=100, faults="fail_at=5"
    )
    await backend.start()

    async with aclosing(backend.generate(request(tokenizer.encode_text("Hello"), 50))) as steps:
        read = [await next_step(steps)]

        async def gather() -> None:
            # On a busy machine the first step may have all five tokens.
            while True:
                read.append(await asyncio.wait_for(steps.asend(1000.0), 30))

        with pytest.raises(EngineRequestError):
            await gather()

    assert len(ids_of(read)) == 5
    assert len(read) <= 2
