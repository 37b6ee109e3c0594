"""The contract of options that a backend does not refuse.

A test module subclasses `OptionsContract` beside `BackendContract`, and overrides the fixture `refused`
where its engine refuses some.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from inference_service.backends.base import Backend
from inference_service.backends.types import EngineFinish, EngineRequest, EngineStep, TokenLogprob
from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.prompt.tokenizer import Tokenizer
from tests.inference_service.backends.contract import (
    chat_ids,
    collect,
    ids_of,
    next_step,
    released,
    request,
    sampling,
    text_of,
)

YES_OR_NO = 'root ::= "yes" | "no"\n'
LETTERS = "root ::= [a-z ]+\n"


def logprobs_of(steps: Sequence[EngineStep]) -> list[TokenLogprob]:
    return [score for step in steps for score in step.logprobs]


class _SkipsRefusedOptions:
    @pytest.fixture
    def refused(self) -> frozenset[str]:
        """The names of the options that this engine refuses."""
        return frozenset()

    def skip_if_refused(self, refused: frozenset[str], *options: str) -> None:
        if missing := refused.intersection(options):
            pytest.skip(f"the engine refuses {', '.join(sorted(missing))}")


class BiasContract(_SkipsRefusedOptions):
    @pytest.fixture(autouse=True)
    def _needs_bias(self, refused: frozenset[str]) -> None:
        self.skip_if_refused(refused, "logit_bias")

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    async def test_a_bias_of_minus_100_forbids_a_token(
        self, backend: Backend, tokenizer: Tokenizer, temperature: float
    ) -> None:
        prompt, chosen_by = chat_ids(tokenizer, "Name three rivers."), sampling(temperature=temperature)
        usual = ids_of(await collect(backend, request(prompt, 24, chosen_by=chosen_by)))
        forbidden = dict.fromkeys(usual[::2], -100.0)

        steps = await collect(backend, request(prompt, 24, chosen_by=chosen_by, logit_bias=forbidden))

        assert not set(ids_of(steps)) & set(forbidden)
        assert sum(s.token_count for s in steps) == 24

    async def test_a_bias_of_100_forces_a_token(self, backend: Backend, tokenizer: Tokenizer) -> None:
        chosen = tokenizer.encode_text(" river")[-1]

        engine_request = request(chat_ids(tokenizer, "Hello"), 6, logit_bias={chosen: 100.0})

        assert ids_of(await collect(backend, engine_request)) == [chosen] * 6

    async def test_a_forbidden_end_token_never_occurs(self, backend: Backend, tokenizer: Tokenizer) -> None:
        prompt = chat_ids(tokenizer, "What is the capital of France?")
        no_end = dict.fromkeys(tokenizer.eos_ids, -100.0)

        steps = await collect(backend, request(prompt, 60, ignore_eos=False, logit_bias=no_end))

        assert steps[-1].finish is EngineFinish.MAX_TOKENS
        assert not set(ids_of(steps)) & tokenizer.eos_ids

    async def test_a_forced_end_token_ends_the_answer_at_once(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        end = min(tokenizer.eos_ids)
        engine_request = request(chat_ids(tokenizer, "Hello"), 9, ignore_eos=False, logit_bias={end: 100.0})

        steps = await collect(backend, engine_request)

        assert (ids_of(steps), steps[-1].finish) == ([end], EngineFinish.END_OF_SEQUENCE)


class LogprobsContract(_SkipsRefusedOptions):
    @pytest.fixture(autouse=True)
    def _needs_logprobs(self, refused: frozenset[str]) -> None:
        self.skip_if_refused(refused, "logprobs")

    @pytest.fixture
    def alternatives(self, refused: frozenset[str]) -> int:
        """The number of alternatives for tests that do not depend on it."""
        return 0 if "top_logprobs" in refused else 2

    async def test_there_are_no_log_probabilities_by_default(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        assert logprobs_of(await collect(backend, request(tokenizer.encode_text("Once"), 4))) == []

    @pytest.mark.parametrize("count", [0, 1, 20])
    async def test_every_token_has_a_log_probability_and_its_alternatives(
        self, backend: Backend, tokenizer: Tokenizer, refused: frozenset[str], count: int
    ) -> None:
        if count:
            self.skip_if_refused(refused, "top_logprobs")
        prompt = tokenizer.encode_text("Once upon a time")

        steps = await collect(backend, request(prompt, 12, logprobs=count))

        assert all([score.token_id for score in s.logprobs] == list(s.token_ids) for s in steps)
        assert len(ids_of(steps)) == 12
        for score in logprobs_of(steps):
            values = [logprob for _, logprob in score.top]
            assert len(dict(score.top)) == count
            assert values == sorted(values, reverse=True)
            assert score.logprob <= 0.0
            assert not score.top or score.top[0] == (score.token_id, score.logprob)

    async def test_a_sampled_token_is_at_most_as_likely_as_the_likeliest(
        self, backend: Backend, tokenizer: Tokenizer, refused: frozenset[str]
    ) -> None:
        self.skip_if_refused(refused, "top_logprobs")
        prompt = tokenizer.encode_text("Once upon a time")
        engine_request = request(prompt, 24, chosen_by=sampling(temperature=1.5, seed=3), logprobs=2)

        for score in logprobs_of(await collect(backend, engine_request)):
            assert score.logprob <= score.top[0][1] <= 0.0
            assert score.logprob == dict(score.top).get(score.token_id, score.logprob)

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    async def test_log_probabilities_do_not_change_the_answer(
        self, backend: Backend, tokenizer: Tokenizer, alternatives: int, temperature: float
    ) -> None:
        prompt, chosen_by = chat_ids(tokenizer, "Name three rivers."), sampling(temperature=temperature)

        with_logprobs = await collect(
            backend, request(prompt, 24, chosen_by=chosen_by, logprobs=alternatives)
        )
        without_logprobs = await collect(backend, request(prompt, 24, chosen_by=chosen_by))

        assert text_of(with_logprobs, tokenizer) == text_of(without_logprobs, tokenizer)
        assert with_logprobs[-1].finish is without_logprobs[-1].finish

    async def test_the_end_has_one_log_probability(
        self, backend: Backend, tokenizer: Tokenizer, alternatives: int
    ) -> None:
        prompt = chat_ids(tokenizer, "What is the capital of France?")

        steps = await collect(backend, request(prompt, 200, ignore_eos=False, logprobs=alternatives))

        assert steps[-1].finish is EngineFinish.END_OF_SEQUENCE
        assert steps[-1].logprobs[-1].token_id in tokenizer.eos_ids
        assert len(logprobs_of(steps)) == sum(s.token_count for s in steps)

    @pytest.mark.parametrize("max_tokens", range(24, 29))
    async def test_partial_characters_have_log_probabilities_at_every_limit(
        self, backend: Backend, tokenizer: Tokenizer, alternatives: int, max_tokens: int
    ) -> None:
        prompt = tokenizer.encode_text("😀" * 16)
        assert len(prompt) > 16

        steps = await collect(backend, request(prompt, max_tokens, logprobs=alternatives))

        scores = logprobs_of(steps)
        assert [t.token_id for t in scores] == ids_of(steps)
        assert len(scores) == sum(s.token_count for s in steps) == max_tokens
        assert all(len(t.top) == alternatives and t.logprob <= 0.0 for t in scores)
        assert all(t.logprob <= t.top[0][1] for t in scores if t.top)
        shown = text_of(steps, tokenizer).encode()
        spelled = b"".join(map(tokenizer.token_bytes, ids_of(steps)))
        assert steps[0].text is None or (spelled.startswith(shown) and len(spelled) - len(shown) < 4)

    async def test_a_slow_reader_loses_no_log_probability(
        self, backend: Backend, tokenizer: Tokenizer, alternatives: int
    ) -> None:
        engine_request = request(tokenizer.encode_text("Once upon a time"), 30, logprobs=alternatives)
        scores: list[TokenLogprob] = []

        async with aclosing(backend.generate(engine_request)) as steps:
            async for step in steps:
                assert len(step.logprobs) == len(step.token_ids)
                scores.extend(step.logprobs)
                await asyncio.sleep(0.05)

        assert len(scores) == 30

    async def test_all_slots_at_once_with_parts_of_characters(
        self, backend: Backend, tokenizer: Tokenizer, alternatives: int
    ) -> None:
        prompt = tokenizer.encode_text("😀" * 16)

        answers = await asyncio.gather(
            *(collect(backend, request(prompt, 24, logprobs=alternatives)) for _ in range(4))
        )

        assert [len(logprobs_of(steps)) for steps in answers] == [24] * 4
        await released(backend)

    async def test_cancelling_within_a_character_frees_the_slot(
        self, backend: Backend, tokenizer: Tokenizer, alternatives: int
    ) -> None:
        for delay in (0.05, 0.2, 0.4):
            engine_request = request(tokenizer.encode_text("😀" * 16), 2_000, logprobs=alternatives)
            reader = asyncio.create_task(collect(backend, engine_request))
            await asyncio.sleep(delay)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

        await released(backend)


class GrammarContract(_SkipsRefusedOptions):
    @pytest.fixture(autouse=True)
    def _needs_grammar(self, refused: frozenset[str]) -> None:
        self.skip_if_refused(refused, "grammar")

    async def assert_follows(
        self, backend: Backend, tokenizer: Tokenizer, engine_request: EngineRequest, language: set[str]
    ) -> list[EngineStep]:
        steps = await collect(backend, engine_request)
        assert text_of(steps, tokenizer) in language
        assert steps[-1].finish is EngineFinish.END_OF_SEQUENCE
        assert ids_of(steps)[-1] in tokenizer.eos_ids
        assert sum(s.token_count for s in steps) == len(ids_of(steps))
        return steps

    @pytest.mark.parametrize(
        "chosen_by",
        [
            sampling(),
            sampling(temperature=2.0, seed=5),
            sampling(temperature=1.0, top_p=0.1, top_k=3, min_p=0.5),
            sampling(frequency_penalty=2.0, presence_penalty=2.0, repetition_penalty=2.0),
        ],
        ids=["greedy", "hot", "filtered", "penalised"],
    )
    async def test_the_output_is_a_sentence_of_the_grammar(
        self, backend: Backend, tokenizer: Tokenizer, chosen_by: object
    ) -> None:
        assert isinstance(chosen_by, type(sampling()))
        prompt = chat_ids(tokenizer, "Is the sea blue?")
        engine_request = request(prompt, 50, chosen_by=chosen_by, grammar=YES_OR_NO)

        await self.assert_follows(backend, tokenizer, engine_request, {"yes", "no"})

    async def test_the_end_token_comes_only_after_a_complete_sentence(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        """A bias for the end token does not change that."""
        end_bias = {min(tokenizer.eos_ids): 100.0}
        grammar = 'root ::= "one two three four five" | "one two three four six"\n'
        engine_request = request(chat_ids(tokenizer, "Count."), 50, logit_bias=end_bias, grammar=grammar)

        await self.assert_follows(
            backend, tokenizer, engine_request, {"one two three four five", "one two three four six"}
        )

    async def test_a_grammar_may_demand_characters_that_span_tokens(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        engine_request = request(chat_ids(tokenizer, "Hello"), 50, grammar='root ::= "日本語 😀é"\n')

        await self.assert_follows(backend, tokenizer, engine_request, {"日本語 😀é"})

    async def test_the_limit_of_tokens_cuts_a_sentence(self, backend: Backend, tokenizer: Tokenizer) -> None:
        steps = await collect(
            backend, request(chat_ids(tokenizer, "Count."), 5, grammar="root ::= [0-9]{50}\n")
        )

        assert text_of(steps, tokenizer).isdigit()
        assert sum(s.token_count for s in steps) == 5
        assert steps[-1].finish is EngineFinish.MAX_TOKENS

    async def test_forbidden_tokens_do_not_break_the_grammar(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        """The first token of every sentence and every end token are forbidden."""
        starts = {tokenizer.encode_text(word[:cut])[0] for word in ("yes", "no") for cut in (1, 2, 3)}
        forbidden = dict.fromkeys([*starts, *tokenizer.eos_ids], -100.0)
        prompt = chat_ids(tokenizer, "Is the sea blue?")

        for chosen_by in (sampling(), sampling(temperature=1.0)):
            engine_request = request(prompt, 50, chosen_by=chosen_by, logit_bias=forbidden, grammar=YES_OR_NO)
            await self.assert_follows(backend, tokenizer, engine_request, {"yes", "no"})

    async def test_a_constrained_answer_has_log_probabilities(
        self, backend: Backend, tokenizer: Tokenizer, refused: frozenset[str]
    ) -> None:
        self.skip_if_refused(refused, "logprobs")
        engine_request = request(chat_ids(tokenizer, "Hello"), 50, logprobs=0, grammar='root ::= "né😀"\n')

        steps = await self.assert_follows(backend, tokenizer, engine_request, {"né😀"})

        assert [score.token_id for score in logprobs_of(steps)] == ids_of(steps)

    async def test_closing_within_a_sentence_frees_the_slot(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        steps = backend.generate(
            request(
                chat_ids(tokenizer, "Name three rivers."),
                2_000,
                logit_bias=dict.fromkeys(tokenizer.eos_ids, -100.0),
                grammar=LETTERS,
            )
        )
        await next_step(steps)

        await steps.aclose()

        await released(backend)

    @pytest.mark.parametrize("grammar", [YES_OR_NO, LETTERS])
    async def test_a_valid_grammar_passes_the_check(self, backend: Backend, grammar: str) -> None:
        backend.check_grammar(compile_constraint(ConstraintKind.GRAMMAR, grammar))


class OptionsContract(BiasContract, LogprobsContract, GrammarContract):
    """Subclass it as `Test…`."""
