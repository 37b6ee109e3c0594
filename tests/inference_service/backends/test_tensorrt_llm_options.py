"""Bias, log probabilities and grammars on the TensorRT-LLM backend with the double."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inference_service.backends.base import EngineRequestError
from inference_service.backends.tensorrt_llm.backend import TensorRtLlmBackend
from inference_service.backends.types import EngineFinish, EngineRequest, EngineStep
from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.models.engine_directory import read_engine_model
from inference_service.prompt.tokenizer import Tokenizer
from tests.double.tensorrt_llm.answers import log_probability
from tests.double.tensorrt_llm.sampling_params import SamplingParams
from tests.inference_service.backends.contract import (
    abandon,
    collect,
    ids_of,
    next_step,
    released,
    request,
    sampling,
    text_of,
)
from tests.support import llama31
from tests.support.tensorrt import make_engine

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("double")]

LARGER = llama31.VOCABULARY_SIZE + 256
"""The vocabulary of an engine may be larger than its tokenizer's."""
PROMPT = "Once upon a time"
GRAMMAR = compile_constraint(ConstraintKind.GRAMMAR, 'root ::= "{\\"city\\": \\"" [A-Z] "\\"}"')
UNREADABLE = compile_constraint(ConstraintKind.REGEX, "secret((a{1,1000}){1,1000}){1,1000}")
"""A grammar with counts that the engine's notation does not support."""


@pytest.fixture(scope="module")
def engine(llama31_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("engines") / "llama"
    return make_engine(directory, llama31_files, script={"tps": 400}, vocab_size=LARGER)


@pytest.fixture(scope="module")
def tokenizer(engine: Path) -> Tokenizer:
    return read_engine_model(engine).tokenizer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(engine: Path, tokenizer: Tokenizer, double: object) -> AsyncIterator[TensorRtLlmBackend]:
    backend = TensorRtLlmBackend(engine, tokenizer, context_length=4096, max_concurrency=4)
    await backend.start()
    yield backend
    await backend.close()


@pytest.fixture
def engine_request(tokenizer: Tokenizer) -> EngineRequest:
    return request(tokenizer.encode_text(PROMPT), 100, ignore_eos=False)


def ended_by(engine_request: EngineRequest, tokenizer: Tokenizer, end_id: int) -> EngineRequest:
    """A copy of the request whose answer ends with this token."""
    return replace(engine_request, prompt_ids=tokenizer.encode_text(f"{PROMPT} @sim(end_id={end_id})"))


class TestLogitBias:
    async def test_a_forbidden_token_never_occurs(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest
    ) -> None:
        plain = ids_of(await collect(backend, engine_request))
        forbidden = {plain[0], plain[-3]}

        biased = ids_of(
            await collect(backend, replace(engine_request, logit_bias=dict.fromkeys(forbidden, -100.0)))
        )

        assert biased == [token_id for token_id in plain if token_id not in forbidden]

    async def test_a_forbidden_end_token_never_occurs(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest, tokenizer: Tokenizer
    ) -> None:
        steps = await collect(
            backend, replace(engine_request, logit_bias=dict.fromkeys(tokenizer.eos_ids, -100.0))
        )

        assert steps[-1].finish is EngineFinish.MAX_TOKENS
        assert not tokenizer.eos_ids & set(ids_of(steps))

    async def test_a_strongly_preferred_token_is_always_chosen(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest
    ) -> None:
        steps = await collect(
            backend, replace(engine_request, max_tokens=5, logit_bias={1917: 100.0, 9906: 99.0})
        )

        assert ids_of(steps) == [1917] * 5

    async def test_a_small_bias_does_not_change_a_greedy_answer(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest
    ) -> None:
        """The bias is added to the logits."""
        plain = ids_of(await collect(backend, engine_request))

        assert ids_of(await collect(backend, replace(engine_request, logit_bias={1917: 1.0}))) == plain


class TestLogprobs:
    async def test_each_token_has_its_own(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest
    ) -> None:
        steps = await collect(backend, replace(engine_request, max_tokens=10, logprobs=0))

        assert len(_checked_ids(steps)) == 10

    async def test_a_slow_reader_loses_no_log_probabilities(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest
    ) -> None:
        steps = []
        async with aclosing(
            backend.generate(replace(engine_request, max_tokens=300, ignore_eos=True, logprobs=0))
        ) as all_steps:
            async for step in all_steps:
                steps.append(step)
                await asyncio.sleep(0.05)

        assert len(_checked_ids(steps)) == 300
        assert len(steps) < 100

    @pytest.mark.parametrize("end_id", sorted(llama31.END_IDS))
    async def test_the_end_has_a_log_probability_if_the_engine_reports_one(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest, tokenizer: Tokenizer, end_id: int
    ) -> None:
        """The log probability of a removed stop word stays; the end id has none."""
        is_reported = end_id != min(llama31.END_IDS)
        ended = ended_by(engine_request, tokenizer, end_id)

        steps = await collect(backend, replace(ended, logprobs=0))

        ids = ids_of(steps)
        assert ids[-1] == end_id
        assert _checked_ids(steps) == (ids if is_reported else ids[:-1])

    async def test_tokens_at_the_limit_have_log_probabilities(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest
    ) -> None:
        """This holds also if the last token is the end token."""
        whole = ids_of(await collect(backend, engine_request))

        for limit in (len(whole) - 1, len(whole)):
            steps = await collect(backend, replace(engine_request, max_tokens=limit, logprobs=0))
            assert _checked_ids(steps) == whole[:limit]

    async def test_there_are_no_log_probabilities_by_default(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest
    ) -> None:
        assert not any(step.logprobs for step in await collect(backend, engine_request))

    async def test_log_probabilities_depend_on_the_temperature(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest
    ) -> None:
        """They are those of the distribution from which the token was sampled."""
        hot = replace(engine_request, max_tokens=8, logprobs=0, sampling=sampling(temperature=2.0, seed=3))

        steps = await collect(backend, hot)

        assert len(_checked_ids(steps, temperature=2.0)) == 8

    async def test_missing_log_probabilities_fail_the_request(
        self,
        backend: TensorRtLlmBackend,
        engine_request: EngineRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        output = import_module("tensorrt_llm.executor.result").RequestOutput
        handle = output._handle

        def lose_some(self: Any, response: Any) -> None:
            handle(self, response)
            self.outputs[0].logprobs = self.outputs[0].logprobs[:3]

        monkeypatch.setattr(output, "_handle", lose_some)

        with pytest.raises(EngineRequestError, match="no log probabilities for some tokens"):
            await collect(backend, replace(engine_request, logprobs=0))
        await released(backend)

    async def test_aborted_requests_leave_no_slot(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest
    ) -> None:
        long = replace(engine_request, max_tokens=2_000, ignore_eos=True, logprobs=0)

        await asyncio.gather(*(abandon(backend, long, after=number % 10 / 50) for number in range(60)))

        await released(backend)
        assert backend.stats().aborts_pending == 0


class TestGrammar:
    async def test_answer_is_a_sentence_of_the_grammar(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest, tokenizer: Tokenizer
    ) -> None:
        steps = await collect(backend, replace(engine_request, grammar=GRAMMAR))

        assert steps[-1].finish is EngineFinish.END_OF_SEQUENCE
        assert text_of(steps, tokenizer) == '{"city": "A"}'

    async def test_an_invalid_grammar_fails_only_its_own_request(
        self,
        backend: TensorRtLlmBackend,
        engine_request: EngineRequest,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """It is not sent to the engine, which would fail all requests. Its text is not logged."""
        other = backend.generate(replace(engine_request, max_tokens=2_000, ignore_eos=True))
        await next_step(other)

        with pytest.raises(EngineRequestError, match="cannot read the grammar"):
            await collect(backend, replace(engine_request, grammar=UNREADABLE))

        await next_step(other)
        await other.aclose()
        await released(backend)
        assert "secret" not in "".join(capfd.readouterr())

    async def test_a_grammar_is_parsed_once(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        guided: Any = backend._engine._guided()  # type: ignore[union-attr]
        read: list[str] = []
        monkeypatch.setattr(guided, "_read", read.append)
        grammar = compile_constraint(ConstraintKind.REGEX, "abc")

        for _ in range(3):
            await collect(backend, replace(engine_request, grammar=grammar))

        assert read == ['root ::= "abc"\n']

    async def test_a_grammar_is_never_ignored(
        self,
        engine: Path,
        tokenizer: Tokenizer,
        engine_request: EngineRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """An engine without grammars refuses the option by name, and fails a request with a grammar."""
        monkeypatch.setattr("inference_service.backends.tensorrt_llm.library._guided", lambda: None)
        backend = TensorRtLlmBackend(engine, tokenizer, context_length=4096)
        assert "grammar" in (await backend.start()).refused

        with pytest.raises(EngineRequestError, match="takes no grammars"):
            await collect(backend, replace(engine_request, grammar=GRAMMAR))
        await backend.close()

    async def test_constrained_answer_has_log_probabilities(
        self, backend: TensorRtLlmBackend, engine_request: EngineRequest
    ) -> None:
        steps = await collect(backend, replace(engine_request, grammar=GRAMMAR, logprobs=0))

        assert _checked_ids(steps) == ids_of(steps)


def _checked_ids(steps: list[EngineStep], temperature: float = 1.0) -> list[int]:
    """Check the log probabilities and their positions. Return their token ids."""
    params = SamplingParams(temperature=temperature)
    for step in steps:
        ids = [entry.token_id for entry in step.logprobs]
        assert ids == list(islice(step.token_ids, len(ids)))
        assert len(ids) == len(step.token_ids) or step.finish is EngineFinish.END_OF_SEQUENCE
    entries = [entry for step in steps for entry in step.logprobs]
    assert all(entry.logprob == log_probability(entry.token_id, params) for entry in entries)
    assert not any(entry.top for entry in entries)
    return [entry.token_id for entry in entries]
