"""Bias, log probabilities and grammars on the TensorRT-LLM backend, over the double."""

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
"""Engines may have more tokens than their tokenizer."""
PROMPT = "Once upon a time"
GRAMMAR = compile_constraint(ConstraintKind.GRAMMAR, 'root ::= "{\\"city\\": \\"" [A-Z] "\\"}"')
UNREADABLE = compile_constraint(ConstraintKind.REGEX, "secret((a{1,1000}){1,1000}){1,1000}")
"""Counts that its notation cannot take."""


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
def wanted(tokenizer: Tokenizer) -> EngineRequest:
    return request(tokenizer.encode_text(PROMPT), 100, ignore_eos=False)


def ended_by(wanted: EngineRequest, tokenizer: Tokenizer, end_id: int) -> EngineRequest:
    """The same request, whose answer ends with this token."""
    return replace(wanted, prompt_ids=tokenizer.encode_text(f"{PROMPT} @sim(end_id={end_id})"))


class TestLogitBias:
    async def test_forbidden_token_never_comes(
        self, backend: TensorRtLlmBackend, wanted: EngineRequest
    ) -> None:
        plain = ids_of(await collect(backend, wanted))
        forbidden = {plain[0], plain[-3]}

        biased = ids_of(await collect(backend, replace(wanted, logit_bias=dict.fromkeys(forbidden, -100.0))))

        assert biased == [token_id for token_id in plain if token_id not in forbidden]

    async def test_forbidden_end_never_comes(
        self, backend: TensorRtLlmBackend, wanted: EngineRequest, tokenizer: Tokenizer
    ) -> None:
        steps = await collect(backend, replace(wanted, logit_bias=dict.fromkeys(tokenizer.eos_ids, -100.0)))

        assert steps[-1].finish is EngineFinish.MAX_TOKENS
        assert not tokenizer.eos_ids & set(ids_of(steps))

    async def test_preferred_token_comes_everywhere(
        self, backend: TensorRtLlmBackend, wanted: EngineRequest
    ) -> None:
        steps = await collect(backend, replace(wanted, max_tokens=5, logit_bias={1917: 100.0, 9906: 99.0}))

        assert ids_of(steps) == [1917] * 5

    async def test_little_bias_changes_nothing_here(
        self, backend: TensorRtLlmBackend, wanted: EngineRequest
    ) -> None:
        """It only adds to what the model thinks."""
        plain = ids_of(await collect(backend, wanted))

        assert ids_of(await collect(backend, replace(wanted, logit_bias={1917: 1.0}))) == plain


class TestLogprobs:
    async def test_each_token_has_its_own(self, backend: TensorRtLlmBackend, wanted: EngineRequest) -> None:
        steps = await collect(backend, replace(wanted, max_tokens=10, logprobs=0))

        assert len(_proven(steps)) == 10

    async def test_slow_reader_loses_none(self, backend: TensorRtLlmBackend, wanted: EngineRequest) -> None:
        steps = []
        async with aclosing(
            backend.generate(replace(wanted, max_tokens=300, ignore_eos=True, logprobs=0))
        ) as all_steps:
            async for step in all_steps:
                steps.append(step)
                await asyncio.sleep(0.05)

        assert len(_proven(steps)) == 300
        assert len(steps) < 100

    @pytest.mark.parametrize("end_id", sorted(llama31.END_IDS))
    async def test_end_has_one_where_the_engine_tells(
        self, backend: TensorRtLlmBackend, wanted: EngineRequest, tokenizer: Tokenizer, end_id: int
    ) -> None:
        """A stop word's stays when it is taken back out of the ids; the end id is never shown."""
        told = end_id != min(llama31.END_IDS)
        asked = ended_by(wanted, tokenizer, end_id)

        steps = await collect(backend, replace(asked, logprobs=0))

        ids = ids_of(steps)
        assert ids[-1] == end_id
        assert _proven(steps) == (ids if told else ids[:-1])

    async def test_tokens_cut_at_the_limit_have_theirs(
        self, backend: TensorRtLlmBackend, wanted: EngineRequest
    ) -> None:
        """Also where the last of them ends the generation as well."""
        whole = ids_of(await collect(backend, wanted))

        for limit in (len(whole) - 1, len(whole)):
            steps = await collect(backend, replace(wanted, max_tokens=limit, logprobs=0))
            assert _proven(steps) == whole[:limit]

    async def test_none_come_unasked(self, backend: TensorRtLlmBackend, wanted: EngineRequest) -> None:
        assert not any(step.logprobs for step in await collect(backend, wanted))

    async def test_temperature_shapes_them(self, backend: TensorRtLlmBackend, wanted: EngineRequest) -> None:
        """They are of the distribution that the token was drawn from."""
        hot = replace(wanted, max_tokens=8, logprobs=0, sampling=sampling(temperature=2.0, seed=3))

        steps = await collect(backend, hot)

        assert len(_proven(steps, temperature=2.0)) == 8

    async def test_missing_ones_fail_the_request(
        self,
        backend: TensorRtLlmBackend,
        wanted: EngineRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Rather than being given to the wrong tokens."""
        output = import_module("tensorrt_llm.executor.result").RequestOutput
        handle = output._handle

        def lose_some(self: Any, response: Any) -> None:
            handle(self, response)
            self.outputs[0].logprobs = self.outputs[0].logprobs[:3]

        monkeypatch.setattr(output, "_handle", lose_some)

        with pytest.raises(EngineRequestError, match="no log probabilities for some tokens"):
            await collect(backend, replace(wanted, logprobs=0))
        await released(backend)

    async def test_aborted_requests_leave_nothing_behind(
        self, backend: TensorRtLlmBackend, wanted: EngineRequest
    ) -> None:
        long = replace(wanted, max_tokens=2_000, ignore_eos=True, logprobs=0)

        await asyncio.gather(*(abandon(backend, long, after=number % 10 / 50) for number in range(60)))

        await released(backend)
        assert backend.stats().aborts_pending == 0


class TestGrammar:
    async def test_answer_is_a_sentence_of_the_grammar(
        self, backend: TensorRtLlmBackend, wanted: EngineRequest, tokenizer: Tokenizer
    ) -> None:
        steps = await collect(backend, replace(wanted, grammar=GRAMMAR))

        assert steps[-1].finish is EngineFinish.END_OF_SEQUENCE
        assert text_of(steps, tokenizer) == '{"city": "A"}'

    async def test_unreadable_grammar_fails_its_own_request_only(
        self,
        backend: TensorRtLlmBackend,
        wanted: EngineRequest,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """The engine would fail all that it works on; so it does not see it. Its text is not logged."""
        other = backend.generate(replace(wanted, max_tokens=2_000, ignore_eos=True))
        await next_step(other)

        with pytest.raises(EngineRequestError, match="cannot read the grammar"):
            await collect(backend, replace(wanted, grammar=UNREADABLE))

        await next_step(other)
        await other.aclose()
        await released(backend)
        assert "secret" not in "".join(capfd.readouterr())

    async def test_grammar_is_read_once(
        self, backend: TensorRtLlmBackend, wanted: EngineRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        guided: Any = backend._engine._guided()  # type: ignore[union-attr]
        read: list[str] = []
        monkeypatch.setattr(guided, "_read", read.append)
        grammar = compile_constraint(ConstraintKind.REGEX, "abc")

        for _ in range(3):
            await collect(backend, replace(wanted, grammar=grammar))

        assert read == ['root ::= "abc"\n']

    async def test_grammar_is_never_left_out(
        self, engine: Path, tokenizer: Tokenizer, wanted: EngineRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where none can be taken they are refused by name; one that comes all the same fails."""
        monkeypatch.setattr("inference_service.backends.tensorrt_llm.library._guided", lambda: None)
        backend = TensorRtLlmBackend(engine, tokenizer, context_length=4096)
        assert "grammar" in (await backend.start()).refused

        with pytest.raises(EngineRequestError, match="takes no grammars"):
            await collect(backend, replace(wanted, grammar=GRAMMAR))
        await backend.close()

    async def test_constrained_answer_has_log_probabilities(
        self, backend: TensorRtLlmBackend, wanted: EngineRequest
    ) -> None:
        steps = await collect(backend, replace(wanted, grammar=GRAMMAR, logprobs=0))

        assert _proven(steps) == ids_of(steps)


def _proven(steps: list[EngineStep], temperature: float = 1.0) -> list[int]:
    """The ids that have log probabilities, each of them its own and in its place."""
    params = SamplingParams(temperature=temperature)
    for step in steps:
        told = [entry.token_id for entry in step.logprobs]
        assert told == list(islice(step.token_ids, len(told)))
        assert len(told) == len(step.token_ids) or step.finish is EngineFinish.END_OF_SEQUENCE
    entries = [entry for step in steps for entry in step.logprobs]
    assert all(entry.logprob == log_probability(entry.token_id, params) for entry in entries)
    assert not any(entry.top for entry in entries)
    return [entry.token_id for entry in entries]
