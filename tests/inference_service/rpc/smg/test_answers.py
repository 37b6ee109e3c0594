"""What a worker answers: tokens, their ends and counts, alike streamed and whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from smg_grpc_proto.generated import trtllm_service_pb2 as pb

from tests.support.service import Running
from tests.support.smg import Received, ask_worker, request_for, running_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")
KINDS = pb.GuidedDecodingParams.GuideType


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Running]:
    async with running_worker() as running:
        yield running


def text_of(service: Running, received: Received) -> str:
    return service.loaded.model.tokenizer.decode(received.complete.output_token_ids)


async def say(service: Running, text: str, **fields: Any) -> Received:
    return await ask_worker(service, request_for(service, f"@say<<{text}>>", **{"max_tokens": 64, **fields}))


async def test_the_chunks_have_the_tokens_of_the_whole_answer(service: Running) -> None:
    streamed = await say(service, "one two three")
    whole = await say(service, "one two three", streaming=False)

    assert text_of(service, streamed) == text_of(service, whole) == "one two three"
    assert streamed.streamed() == list(streamed.complete.output_token_ids)
    assert not whole.chunks
    assert streamed.chunks[-1].completion_tokens == len(streamed.streamed())


async def test_the_end_has_reason_and_counts(service: Running) -> None:
    ended = (await say(service, "one two")).complete
    cut = (await say(service, "one two three four", max_tokens=2)).complete

    assert (ended.finish_reason, cut.finish_reason) == ("stop", "length")
    assert ended.prompt_tokens == len(service.loaded.model.tokenizer.encode_text("@say<<one two>>"))
    # The end of the sequence is a token, too, as in the receipts.
    assert ended.completion_tokens == len(ended.output_token_ids) + 1
    assert cut.completion_tokens == len(cut.output_token_ids) == 2


@pytest.mark.parametrize(
    ("stop", "included", "kept"),
    [
        pytest.param(" three", False, "one two", id="whole tokens"),
        pytest.param(" three", True, "one two three", id="whole tokens, included"),
        pytest.param("ree", False, "one two three", id="within a token"),
        pytest.param("o th", False, "one two three", id="from within a token to within the next"),
        pytest.param("o th", True, "one two three", id="the same, included"),
    ],
)
async def test_no_text_before_a_stop_sequence_is_lost(
    service: Running, stop: str, included: bool, kept: str
) -> None:
    received = await say(
        service, "one two three four", stop=[stop, "never"], include_stop_token_in_output=included
    )

    assert text_of(service, received) == kept
    assert received.streamed() == list(received.complete.output_token_ids)
    assert received.complete.matched_stop_str == stop
    assert received.complete.finish_reason == "stop"


@pytest.mark.parametrize("included", [False, True])
async def test_a_stop_token_ends_the_sequence(service: Running, included: bool) -> None:
    (token,) = service.loaded.model.tokenizer.encode_text(" three")

    received = await say(
        service, "one two three four", stop_token_ids=[token], include_stop_token_in_output=included
    )

    assert text_of(service, received) == ("one two three" if included else "one two")
    assert received.streamed() == list(received.complete.output_token_ids)
    assert received.complete.matched_token_id == token


async def test_several_sequences(service: Running) -> None:
    config = {"num_return_sequences": 3, "temperature": 1.0, "seed": 2**64 - 1}

    received = await ask_worker(service, request_for(service, sampling_config=config))

    assert [complete.sequence_index for complete in received.completes] == [0, 1, 2]
    for complete in received.completes:
        assert received.streamed(complete.sequence_index) == list(complete.output_token_ids)
        assert complete.completion_tokens == 8
    assert len({tuple(complete.output_token_ids) for complete in received.completes}) == 3


async def test_log_probabilities(service: Running) -> None:
    received = await say(service, "one two", output_config={"logprobs": 2})

    complete = received.complete
    assert [entry.token_id for entry in complete.logprobs] == list(complete.output_token_ids)
    assert [entry for chunk in received.chunks for entry in chunk.logprobs] == list(complete.logprobs)
    assert all(len(entry.top_logprobs) == 2 and entry.logprob < 0 for entry in complete.logprobs)


async def test_log_probabilities_without_alternatives(service: Running) -> None:
    complete = (await say(service, "one", output_config={"logprobs": 0})).complete

    assert len(complete.logprobs) == len(complete.output_token_ids)
    assert not complete.logprobs[0].top_logprobs


async def test_bad_tokens_are_forbidden(service: Running) -> None:
    (two,) = service.loaded.model.tokenizer.encode_text(" two")

    received = await say(service, "one two three", bad_token_ids=[two])

    assert two not in received.complete.output_token_ids


@pytest.mark.parametrize(
    ("kind", "guide", "expected"),
    [
        (KINDS.GUIDE_TYPE_JSON, "", "0"),
        (KINDS.GUIDE_TYPE_JSON_SCHEMA, '{"type": "object", "required": ["a"]}', "{"),
        (KINDS.GUIDE_TYPE_JSON_SCHEMA, '{"enum": ["red"]}', '"red"'),
        (KINDS.GUIDE_TYPE_REGEX, "(yes|no)!", "no!"),
        (KINDS.GUIDE_TYPE_EBNF_GRAMMAR, 'root ::= "up" | "down"', "up"),
    ],
)
async def test_guided_decoding(service: Running, kind: int, guide: str, expected: str) -> None:
    received = await ask_worker(
        service,
        request_for(service, max_tokens=64, guided_decoding={"guide_type": kind, "guide": guide}),
    )

    assert text_of(service, received).startswith(expected)
    assert received.complete.finish_reason == "stop"


RULES = """
[[rules]]
name = "heron"
phrases = ["heron"]
action = "redact"
applies_to = "output"

[[rules]]
name = "stork"
phrases = ["stork"]
action = "block"
applies_to = "output"
"""


async def test_what_the_content_filter_takes_out_is_in_no_token(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    async with running_worker(content_filter_file=rules) as filtered:
        plain = await say(filtered, "a crane flies")
        redacted = await say(filtered, "a grey heron flies by")
        blocked = await say(filtered, "a white stork flies by")

        assert text_of(filtered, plain) == "a crane flies"
        assert "heron" not in text_of(filtered, redacted)
        assert text_of(filtered, redacted).startswith("a grey ")
        assert text_of(filtered, redacted).endswith(" flies by")
        assert redacted.streamed() == list(redacted.complete.output_token_ids)
        assert text_of(filtered, blocked).rstrip() == "a white"
        assert blocked.complete.finish_reason == "content_filter"
