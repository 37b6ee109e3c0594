"""Several choices, batches, log probabilities, biases, echo and reports, over the wire."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.prompt.tokenizer import Tokenizer
from tests.support.calls import TIMEOUT_SECONDS, ask, collect, eventually, first, is_free, refusal
from tests.support.generations import HOT, batch, both, spoken
from tests.support.service import MODEL_ID, Running, running_service
from tests.support.texts import HARD_PIECES

pytestmark = pytest.mark.asyncio(loop_scope="module")

HARD = " ".join(HARD_PIECES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Running]:
    """An idle service without delays, with fewer slots than a request may have choices."""
    async with running_service(context_length=1024, max_concurrency=3) as running:
        yield running


def hot(prompt: str = "hello world", **fields: object) -> generate_pb.GenerateRequest:
    """A text request whose answer depends on the seed."""
    given = {"sampling": HOT, **fields}
    return generate_pb.GenerateRequest(model=MODEL_ID, prompt=prompt, **given)  # type: ignore[arg-type]


def texts(answer: generate_pb.GenerateResponse) -> list[str]:
    return [choice.text for choice in answer.choices]


@pytest.mark.parametrize("n", [1, 2, 8])
async def test_choices_have_seeds_of_their_own(service: Running, n: int) -> None:
    answer = await both(service, hot(HARD, output=pb.OutputOptions(n=n)))
    alone = await both(service, hot(HARD))

    assert [choice.index for choice in answer.choices] == list(range(n))
    assert len(set(texts(answer))) == n
    assert texts(answer)[0] == texts(alone)[0]
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
    made = sum(choice.token_count + 1 for choice in answer.choices)
    assert answer.usage.completion_tokens == made
    await eventually(lambda: is_free(service))


async def test_greedy_choices_are_all_the_same(service: Running) -> None:
    request = ask()
    request.output.n = 3

    assert len(set(texts(await both(service, request)))) == 1


async def test_choices_are_interleaved(service: Running) -> None:
    request = hot("many words " * 20, output=pb.OutputOptions(n=3))

    events = await collect(service.generate_stub.GenerateStream(request))

    order = [event.delta.choice_index for event in events if event.HasField("delta")]
    assert order != sorted(order)


async def test_a_failed_choice_ends_the_request(service: Running) -> None:
    request = hot("@sim(fail_at=3)", output=pb.OutputOptions(n=8))

    for call in (service.generate_stub.Generate(request), service.generate_stub.GenerateStream(request)):
        assert (await refusal(call)).reason == "INTERNAL_ERROR"
        await eventually(lambda: is_free(service))


async def test_a_cancellation_while_choices_wait_frees_everything(service: Running) -> None:
    request = hot("@sim(stall_at=2)", output=pb.OutputOptions(n=8))
    stream = service.generate_stub.GenerateStream(request)
    await first(stream, 3)
    await eventually(lambda: service.loaded.admission.waiting == 5)

    stream.cancel()

    await eventually(lambda: is_free(service))


async def test_prompts_of_a_batch_get_the_same_answers_as_alone(
    service: Running, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_text("three four")
    output = pb.OutputOptions(n=2)

    together = await both(service, batch("one", ids, HARD, output=output))

    apart = [await both(service, hot(text, output=output)) for text in ("one", "three four", HARD)]
    assert texts(together) == [text for answer in apart for text in texts(answer)]
    assert together.usage.prompt_tokens == sum(answer.usage.prompt_tokens for answer in apart)
    assert together.usage.completion_tokens == sum(answer.usage.completion_tokens for answer in apart)


async def test_an_invalid_prompt_of_a_batch_is_named(service: Running) -> None:
    status = await refusal(service.generate_stub.Generate(batch("one", [49_152])))
    assert status.fields == ["batch.prompts[1].token_ids.ids[0]"]

    too_long = await refusal(service.generate_stub.Generate(batch("one", "hello " * 1100)))
    assert (too_long.reason, too_long.fields) == ("CONTEXT_LENGTH_EXCEEDED", ["batch.prompts[1].text"])


@pytest.mark.parametrize("top", [0, 5, 20])
async def test_every_token_has_its_log_probability(service: Running, tokenizer: Tokenizer, top: int) -> None:
    """Tokens that are parts of a character have one, too: the joined bytes are the text."""
    options = pb.OutputOptions(n=2, logprobs=True, top_logprobs=top)

    answer = await both(service, hot(HARD, output=options))

    for choice in answer.choices:
        assert [score.token_id for score in choice.logprobs] == list(choice.token_ids)
        assert b"".join(score.bytes for score in choice.logprobs).decode() == choice.text
        for score in choice.logprobs:
            assert score.logprob <= 0
            assert score.token == tokenizer.token_text(score.token_id)
            assert len(score.top) == top
            assert not any(other.top for other in score.top)
            likelihoods = [other.logprob for other in score.top]
            assert likelihoods == sorted(likelihoods, reverse=True)
            assert sum(map(math.exp, likelihoods)) <= 1.001


async def test_there_are_no_log_probabilities_by_default(service: Running) -> None:
    assert not (await both(service, hot())).choices[0].logprobs


async def test_a_forbidden_token_does_not_occur(service: Running, tokenizer: Tokenizer) -> None:
    (world,) = tokenizer.encode_text(" world")
    free = await both(service, ask("hello world"))
    biased = await both(service, ask("hello world", sampling={"logit_bias": {world: -100.0}}))

    assert world in free.choices[0].token_ids
    assert world not in biased.choices[0].token_ids
    assert dict(biased.report.sampling.logit_bias) == {world: -100.0}


async def test_a_bias_outside_the_vocabulary_is_named(service: Running) -> None:
    status = await refusal(service.generate_stub.Generate(ask(sampling={"logit_bias": {49_152: 1.0}})))

    assert status.fields == ["sampling.logit_bias"]
    assert "[0, 49152)" in status.message


async def test_echo_puts_the_prompt_before_each_choice(service: Running, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_text("three four")
    options = pb.OutputOptions(n=2, echo=True)

    plain = await both(service, batch("one " + HARD, ids, output=pb.OutputOptions(n=2)))
    echoed = await both(service, batch("one " + HARD, ids, output=options))

    prompts = ["one " + HARD, "one " + HARD, "three four", "three four"]
    assert texts(echoed) == [prompt + text for prompt, text in zip(prompts, texts(plain), strict=True)]
    assert echoed.usage == plain.usage
    assert [c.token_count for c in echoed.choices] == [c.token_count for c in plain.choices]


async def test_echo_is_not_for_conversations(service: Running) -> None:
    status = await refusal(service.generate_stub.Generate(spoken("x", output=pb.OutputOptions(echo=True))))

    assert status.fields == ["output.echo"]


async def test_a_stop_sequence_can_be_kept(service: Running) -> None:
    left_out = await both(service, ask("one two three", stop=["two"]))
    kept = await both(service, ask("one two three", stop=["two"], include_stop=True))

    assert kept.choices[0].text == left_out.choices[0].text + "two"
    assert kept.choices[0].finished == left_out.choices[0].finished


async def test_repeating_with_the_reported_seed_gives_the_same_texts(service: Running) -> None:
    """A request with the reported seed and options repeats an answer whose seed the service drew."""
    request = hot(output=pb.OutputOptions(n=3), sampling=pb.SamplingOptions(temperature=1.0))
    drawn = await service.generate_stub.Generate(request, timeout=TIMEOUT_SECONDS)

    again = hot(output=pb.OutputOptions(n=3), sampling=drawn.report.sampling)

    assert texts(await both(service, again)) == texts(drawn)
    assert texts(await service.generate_stub.Generate(request, timeout=TIMEOUT_SECONDS)) != texts(drawn)


async def test_the_report_holds_every_option_in_effect(service: Running) -> None:
    answer = await both(service, hot())

    assert answer.report.sampling == pb.SamplingOptions(
        temperature=1.0,
        top_p=0.9,
        top_k=0,
        min_p=0.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        repetition_penalty=1.0,
        seed=7,
    )
    assert answer.report.max_tokens == 150
    assert answer.report.batch_size >= 1
    assert not answer.report.ignored_parameters


async def test_parameters_without_effect_are_reported(service: Running) -> None:
    request = spoken("x", parallel_tool_calls=False)
    request.MergeFromString(b"\x98\x06\x01")

    answer = await both(service, request)

    assert list(answer.report.ignored_parameters) == ["field 99", "chat.parallel_tool_calls"]


async def test_the_report_has_the_batch_size(service: Running) -> None:
    holder = service.generate_stub.GenerateStream(ask("@sim(stall_at=1)"))
    await first(holder)

    answer = await service.generate_stub.Generate(ask(), timeout=TIMEOUT_SECONDS)

    assert answer.report.batch_size == 2
    holder.cancel()
    await eventually(lambda: is_free(service))


async def test_a_request_that_only_validates_generates_nothing(service: Running) -> None:
    request = hot("one two three", output=pb.OutputOptions(n=8), validate_only=True)

    answer = await both(service, request)

    assert not answer.choices
    assert answer.usage == pb.Usage(prompt_tokens=3, cached_tokens=0)
    assert (answer.report.max_tokens, answer.report.batch_size) == (150, 0)
    assert answer.report.sampling.seed == 7
    assert answer.model == MODEL_ID


async def test_validation_refuses_what_a_generation_would_refuse(service: Running) -> None:
    for request in (
        hot("hello " * 1100, validate_only=True),
        hot(validate_only=True, constraint=pb.Constraint(regex="(")),
        hot(validate_only=True, output=pb.OutputOptions(n=9)),
    ):
        for call in (service.generate_stub.Generate(request), service.generate_stub.GenerateStream(request)):
            assert (await refusal(call)).code.name == "INVALID_ARGUMENT"


async def test_a_full_queue_does_not_refuse_validation() -> None:
    async with running_service(max_concurrency=1, queue_limit=0) as busy:
        busy.admission._record(2.0)
        holder = busy.generate_stub.GenerateStream(ask("@sim(stall_at=1)"))
        await first(holder)

        answer = await both(busy, hot(validate_only=True))

        assert answer.report.queue_estimate_ms == pytest.approx(2000)
        holder.cancel()
        await eventually(lambda: is_free(busy))
