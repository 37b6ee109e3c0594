"""The contract of every backend.

A test module subclasses `BackendContract` and provides two fixtures:

`backend`        a started backend with 4 slots of `CONTEXT_LENGTH` tokens; may be shared by tests.
`fresh_backend`  makes one that is not started, and closes it after the test.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from itertools import count

import pytest

from inference_service.backends.base import Backend, BackendError, EngineDeadError, Steps
from inference_service.backends.types import EngineFinish, EngineRequest, EngineStep, Sampling
from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.prompt.tokenizer import Tokenizer

CONTEXT_LENGTH = 4_096
LONG_PROMPT_TOKENS = 3_500
"""The prefill of so many tokens takes a real engine much longer than `RELEASE_SECONDS`."""
RELEASE_SECONDS = 5.0
STEP_SECONDS = 60.0

_numbers = count()

FreshBackend = Callable[[], Backend]


def sampling(
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int = 1,
    reproducible: bool = True,
) -> Sampling:
    """Greedy sampling by default."""
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        repetition_penalty=repetition_penalty,
        seed=seed,
        reproducible=reproducible,
    )


def request(
    prompt_ids: Sequence[int],
    max_tokens: int = 16,
    *,
    ignore_eos: bool = True,
    chosen_by: Sampling | None = None,
    logit_bias: Mapping[int, float] | None = None,
    logprobs: int | None = None,
    grammar: str | None = None,
) -> EngineRequest:
    return EngineRequest(
        f"contract-{next(_numbers)}",
        prompt_ids,
        chosen_by or sampling(),
        max_tokens,
        ignore_eos and grammar is None,
        logit_bias or {},
        logprobs,
        None if grammar is None else compile_constraint(ConstraintKind.GRAMMAR, grammar),
    )


def chat_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """A chat prompt in the format of the model's training, whose answer ends by itself."""
    text, control = tokenizer.encode_text, tokenizer.control_tokens
    if "<|im_start|>" in control:
        start, end = control["<|im_start|>"], control["<|im_end|>"]
        return [start, *text(f"user\n{question}"), end, *text("\n"), start, *text("assistant\n")]
    begin, head = control["<|begin_of_text|>"], control["<|start_header_id|>"]
    tail, end = control["<|end_header_id|>"], control["<|eot_id|>"]
    turn = [head, *text("user"), tail, *text(f"\n\n{question}"), end]
    return [begin, *turn, head, *text("assistant"), tail, *text("\n\n")]


async def collect(backend: Backend, engine_request: EngineRequest) -> list[EngineStep]:
    async with aclosing(backend.generate(engine_request)) as steps:
        return [step async for step in steps]


def ids_of(steps: Sequence[EngineStep]) -> list[int]:
    return [token_id for step in steps for token_id in step.token_ids]


def text_of(steps: Sequence[EngineStep], tokenizer: Tokenizer) -> str:
    """The engine's own text, or the decoded ids of all steps, since a character may span steps."""
    texts = [s.text for s in steps if s.text is not None]
    return "".join(texts) if texts else tokenizer.decode(ids_of(steps))


async def released(backend: Backend) -> None:
    """Wait until the engine has freed all slots; fail if it does not."""
    deadline = time.monotonic() + RELEASE_SECONDS
    while backend.stats().running:
        assert time.monotonic() < deadline, f"slots are still taken: {backend.stats()}"
        await asyncio.sleep(0.005)


async def next_step(steps: Steps) -> EngineStep:
    return await asyncio.wait_for(steps.__anext__(), STEP_SECONDS)


async def abandon(backend: Backend, engine_request: EngineRequest, after: float) -> None:
    """Read a generation and cancel the reader after some seconds."""
    reader = asyncio.create_task(collect(backend, engine_request))
    await asyncio.sleep(after)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)


class BackendContract:
    """Subclass it as `Test…`."""

    async def test_only_the_last_step_has_a_finish(self, backend: Backend, tokenizer: Tokenizer) -> None:
        steps = await collect(backend, request(tokenizer.encode_text("Once upon a time"), 12))

        assert steps[-1].finish is not None
        assert [s.finish for s in steps[:-1]] == [None] * (len(steps) - 1)

    @pytest.mark.parametrize("max_tokens", [1, 2, 33])
    async def test_max_tokens_is_exact(self, backend: Backend, tokenizer: Tokenizer, max_tokens: int) -> None:
        steps = await collect(backend, request(tokenizer.encode_text("Once upon a time"), max_tokens))

        assert sum(s.token_count for s in steps) == max_tokens
        assert steps[-1].finish is EngineFinish.MAX_TOKENS
        assert all(len(s.token_ids) <= s.token_count for s in steps)

    async def test_natural_end_is_counted_and_is_the_last_id(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        engine_request = request(chat_ids(tokenizer, "What is the capital of France?"), 200, ignore_eos=False)

        steps = await collect(backend, engine_request)

        assert steps[-1].finish is EngineFinish.END_OF_SEQUENCE
        assert steps[-1].token_ids[-1] in tokenizer.eos_ids
        assert sum(s.token_count for s in steps) == len(ids_of(steps)) < 200
        assert not tokenizer.eos_ids & set(ids_of(steps)[:-1])

    async def test_end_of_sequence_can_be_ignored(self, backend: Backend, tokenizer: Tokenizer) -> None:
        steps = await collect(backend, request(chat_ids(tokenizer, "What is the capital of France?"), 60))

        assert steps[-1].finish is EngineFinish.MAX_TOKENS
        assert sum(s.token_count for s in steps) == 60

    async def test_ids_decode_to_the_text(self, backend: Backend, tokenizer: Tokenizer) -> None:
        steps = await collect(backend, request(chat_ids(tokenizer, "Name three rivers."), 60))

        for step in steps:
            if step.text is not None and len(step.token_ids) == step.token_count:
                assert tokenizer.decode(step.token_ids) == step.text

    async def test_cached_tokens_are_reported_at_most_once(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        prompt = tokenizer.encode_text("Once upon a time")

        steps = await collect(backend, request(prompt, 8))

        counts = [s.cached_tokens for s in steps if s.cached_tokens is not None]
        assert len(counts) <= 1
        assert all(0 <= n <= len(prompt) for n in counts)

    async def test_a_slow_reader_loses_no_output(self, backend: Backend, tokenizer: Tokenizer) -> None:
        engine_request = request(tokenizer.encode_text("Once upon a time"), 40)
        expected = await collect(backend, engine_request)
        read_slowly = []

        async with aclosing(backend.generate(request(engine_request.prompt_ids, 40))) as steps:
            async for step in steps:
                read_slowly.append(step)
                await asyncio.sleep(0.05)

        assert text_of(read_slowly, tokenizer) == text_of(expected, tokenizer)
        assert sum(s.token_count for s in read_slowly) == 40
        assert len(read_slowly) <= len(expected)

    async def test_gathered_steps_lose_no_output(self, backend: Backend, tokenizer: Tokenizer) -> None:
        engine_request = request(tokenizer.encode_text("Once upon a time"), 40)
        single = await collect(backend, engine_request)

        async with aclosing(backend.generate(engine_request)) as steps:
            gathered = [await next_step(steps)]
            while gathered[-1].finish is None:
                gathered.append(await asyncio.wait_for(steps.asend(0.02), STEP_SECONDS))

        assert text_of(gathered, tokenizer) == text_of(single, tokenizer)
        assert sum(s.token_count for s in gathered) == 40
        assert gathered[-1].finish is EngineFinish.MAX_TOKENS

    async def test_the_end_of_a_request_ends_the_gathering(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        engine_request = request(chat_ids(tokenizer, "What is the capital of France?"), 200, ignore_eos=False)
        single = await collect(backend, engine_request)

        async with aclosing(backend.generate(engine_request)) as steps:
            first = await next_step(steps)
            rest = await asyncio.wait_for(steps.asend(10 * STEP_SECONDS), STEP_SECONDS)

        assert rest.finish is EngineFinish.END_OF_SEQUENCE
        assert text_of([first, rest], tokenizer) == text_of(single, tokenizer)

    async def test_closing_while_gathering_frees_the_slot(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        steps = backend.generate(request(tokenizer.encode_text("Once upon a time"), 3_000))
        await next_step(steps)
        gathering = asyncio.ensure_future(steps.asend(1000.0))
        await asyncio.sleep(0.05)

        gathering.cancel()
        await asyncio.gather(gathering, return_exceptions=True)
        await steps.aclose()

        await released(backend)

    async def test_greedy_decoding_is_deterministic(self, backend: Backend, tokenizer: Tokenizer) -> None:
        prompt = chat_ids(tokenizer, "Tell me about the sea.")

        first = await collect(backend, request(prompt, 24))
        second = await collect(backend, request(prompt, 24, chosen_by=sampling(seed=2)))

        assert ids_of(first) == ids_of(second)

    async def test_seed_decides_the_answer(self, backend: Backend, tokenizer: Tokenizer) -> None:
        prompt = chat_ids(tokenizer, "Tell me about the sea.")

        def seeded(seed: int) -> EngineRequest:
            return request(prompt, 24, chosen_by=sampling(temperature=1.5, seed=seed))

        first, again, other = [ids_of(await collect(backend, seeded(seed))) for seed in (7, 7, 8)]

        assert first == again
        assert first != other

    async def test_concurrent_requests_are_not_mixed_up(self, backend: Backend, tokenizer: Tokenizer) -> None:
        words = ["apple", "river", "seven", "green"]
        prompts = [tokenizer.encode_text(f"{word}\n" * 40) for word in words]

        answers = await asyncio.gather(*(collect(backend, request(p, 24)) for p in prompts))

        for word, steps in zip(words, answers, strict=True):
            text = text_of(steps, tokenizer)
            assert sum(s.token_count for s in steps) == 24
            assert {w for w in words if w in text} == {word}

    async def test_closing_before_the_first_step_takes_no_slot(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        steps = backend.generate(request(tokenizer.encode_text("Once upon a time")))

        await steps.aclose()

        await released(backend)

    async def test_cancelling_during_prefill_frees_the_slot(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        prompt = (tokenizer.encode_text("one two three ") * 2_000)[:LONG_PROMPT_TOKENS]

        await abandon(backend, request(prompt, 500), after=0.3)

        await released(backend)

    async def test_cancelling_behind_a_long_prefill_frees_the_slot(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        prompt = (tokenizer.encode_text("one two three ") * 2_000)[:LONG_PROMPT_TOKENS]

        await asyncio.gather(*(abandon(backend, request(prompt, 500), after=0.3) for _ in range(4)))

        await released(backend)

    async def test_closing_within_a_stream_frees_the_slot(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        steps = backend.generate(request(tokenizer.encode_text("Once upon a time"), 3_000))
        for _ in range(3):
            await next_step(steps)

        await steps.aclose()

        await released(backend)

    async def test_a_hundred_cancelled_requests_leave_no_slot_task_or_thread(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        chance = random.Random(5)
        prompt = tokenizer.encode_text("one two three ") * 20
        expected = await collect(backend, request(prompt, 8))
        await released(backend)
        threads, tasks = threading.active_count(), len(asyncio.all_tasks())

        async def abandon_many() -> None:
            for _ in range(25):
                cut = chance.randrange(1, len(prompt))
                await abandon(backend, request(prompt[cut:], 2_000), after=chance.uniform(0.0, 0.3))

        await asyncio.gather(*(abandon_many() for _ in range(4)))
        await released(backend)

        assert len(asyncio.all_tasks()) == tasks
        await _at_most(threading.active_count, threads)
        assert backend.stats().aborts_pending == 0
        assert ids_of(await collect(backend, request(prompt, 8))) == ids_of(expected)

    async def test_stats_count_running_requests(self, backend: Backend, tokenizer: Tokenizer) -> None:
        await released(backend)
        assert backend.stats().alive
        assert backend.stats().last_step_age == 0.0

        async with aclosing(backend.generate(request(tokenizer.encode_text("Once"), 3_000))) as steps:
            await next_step(steps)
            during = backend.stats()

        assert during.running == 1
        assert during.aborts_pending == 0
        assert 0.0 <= during.last_step_age < STEP_SECONDS

    async def test_a_backend_can_be_closed_before_its_start_and_twice(
        self, fresh_backend: FreshBackend
    ) -> None:
        await fresh_backend().close()
        backend = fresh_backend()
        await backend.start()

        await backend.close()
        await backend.close()

        assert not backend.stats().alive

    async def test_a_closed_engine_refuses_requests(
        self, fresh_backend: FreshBackend, tokenizer: Tokenizer
    ) -> None:
        backend = fresh_backend()
        await backend.start()
        await backend.close()

        with pytest.raises(EngineDeadError):
            await collect(backend, request(tokenizer.encode_text("Once upon a time")))

    async def test_closing_fails_running_requests(
        self, fresh_backend: FreshBackend, tokenizer: Tokenizer
    ) -> None:
        backend = fresh_backend()
        await backend.start()
        prompt = tokenizer.encode_text("Once upon a time")
        readers = [asyncio.create_task(collect(backend, request(prompt, 3_000))) for _ in range(4)]
        await asyncio.sleep(0.3)

        await backend.close()

        for reader in readers:
            with pytest.raises(BackendError):
                await asyncio.wait_for(reader, RELEASE_SECONDS)
        assert backend.stats().running == 0

    async def test_closing_fails_gathering_requests(
        self, fresh_backend: FreshBackend, tokenizer: Tokenizer
    ) -> None:
        backend = fresh_backend()
        await backend.start()
        steps = backend.generate(request(tokenizer.encode_text("Once upon a time"), 3_000))
        await next_step(steps)
        gathering = asyncio.ensure_future(steps.asend(1000.0))
        await asyncio.sleep(0.05)

        await backend.close()

        # Steps that were ready may come first.
        await asyncio.wait({gathering}, timeout=RELEASE_SECONDS)
        assert gathering.done()
        if gathering.exception() is None:
            gathering = asyncio.ensure_future(anext(steps))
        with pytest.raises(BackendError):
            await asyncio.wait_for(gathering, RELEASE_SECONDS)


async def _at_most(reading: Callable[[], int], limit: int) -> None:
    """Wait until a reading is at most `limit`; fail if it is not."""
    deadline = time.monotonic() + RELEASE_SECONDS
    while reading() > limit:
        assert time.monotonic() < deadline, f"{reading()} are more than {limit}"
        await asyncio.sleep(0.01)
