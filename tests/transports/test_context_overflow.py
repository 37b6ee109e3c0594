"""Prompts that do not fit are refused with the words of OpenAI, and before tokenizing if far too long."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from inference_client import ContextLengthError
from inference_service.prompt.tokenizer import Tokenizer
from tests.support.service import MODEL_ID
from tests.support.transports import Transports, running_transports
from tests.transports.feature_requests import chat, completion

CONTEXT = 512
LONG = "word " * 600
HOPELESS = "word " * 800_000
"""4 MB: more bytes than the context length times the bytes of the longest token."""

LITELLM = (
    "exceed context limit",
    "this model's maximum context length is",
    "string too long. expected a string with maximum length",
    "model's maximum context limit",
    "is longer than the model's context length",
    "input tokens exceed the configured limit",
    "`inputs` tokens + `max_new_tokens` must be",
    "exceeds the maximum number of tokens allowed",
)
"""Words that litellm 1.110.2 looks for in a lower-case message (abridged).

See `is_error_str_context_window_exceeded` of litellm/litellm_core_utils/exception_mapping_utils.py. The
package is too large to be installed for a test."""

LANGCHAIN = ("Input tokens exceed the configured limit", "prompt is too long")
"""Words that langchain-openai 1.7.4 looks for in a message: `_handle_openai_bad_request` in
langchain_openai/chat_models/base.py; langchain-anthropic's `_handle_anthropic_bad_request` has the second."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def transports() -> AsyncIterator[Transports]:
    async with running_transports(context_length=CONTEXT, max_message_bytes=8 * 2**20) as transports:
        yield transports


@pytest.mark.parametrize("ask", [chat, completion])
@pytest.mark.parametrize("text", [LONG, HOPELESS])
async def test_libraries_recognise_the_refusal_by_its_words(
    transports: Transports, ask: Callable[..., dict[str, Any]], text: str
) -> None:
    for way in transports.ways:
        answer = await way(ask(text, max_tokens=50))

        assert answer.error == "context_length_exceeded"
        assert answer.message is not None
        assert any(words in answer.message.lower() for words in LITELLM), answer.message
        assert any(words in answer.message for words in LANGCHAIN), answer.message


async def test_the_error_has_exact_numbers_for_a_tokenized_prompt(
    transports: Transports, tokenizer: Tokenizer
) -> None:
    prompt = len(tokenizer.encode_text(LONG))
    total = prompt + 50

    answer = await transports.by_rest(completion(LONG, max_tokens=50))

    assert answer.message == (
        f"This model's maximum context length is {CONTEXT} tokens. However, you requested {total} tokens "
        f"({prompt} in the prompt, 50 in the completion). The prompt is too long: {total} tokens > "
        f"{CONTEXT} maximum."
    )


async def test_prompts_that_cannot_fit_are_refused_before_tokenizing(
    transports: Transports, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for conversations, texts, one of several prompts, token ids, and counted prompts."""

    def encode(self: Tokenizer, text: str) -> list[int]:
        raise AssertionError(f"{len(text)} characters were read")

    monkeypatch.setattr(Tokenizer, "encode_text", encode)
    ids = [7] * 600_000
    bodies = [
        chat(HOPELESS),
        chat(tools=[{"type": "function", "function": {"name": "f", "description": HOPELESS}}]),
        completion(HOPELESS),
        completion(["x", HOPELESS]),
        completion(ids),
    ]
    for body in bodies:
        for way in transports.ways:
            answer = await way(body)
            assert answer.error == "context_length_exceeded"
    for given in (
        {"prompt": HOPELESS},
        {"messages": [{"role": "user", "content": HOPELESS}]},
        {"token_ids": ids},
    ):
        with pytest.raises(ContextLengthError) as refused:
            await transports.client.count_tokens(MODEL_ID, **given)
        assert refused.value.context_length == CONTEXT
        assert refused.value.prompt_tokens is not None
        assert refused.value.prompt_tokens > CONTEXT


async def test_refusing_four_megabytes_takes_little_time(transports: Transports) -> None:
    """It takes about 15 ms in the service, mostly in gRPC; tokenizing the prompt took 6 seconds."""
    took = []
    for _ in range(5):
        began = time.monotonic()
        assert (await transports.by_grpc(completion(HOPELESS))).error == "context_length_exceeded"
        took.append(time.monotonic() - began)

    assert min(took) < 0.5


async def test_a_prompt_that_could_fit_is_tokenized(transports: Transports, tokenizer: Tokenizer) -> None:
    """A text of only the longest tokens has the most bytes of all texts that fit."""
    longest = max(range(tokenizer.vocabulary_size), key=lambda i: len(tokenizer.token_bytes(i)))
    piece = tokenizer.token_bytes(longest).decode()
    assert len(piece.encode()) == tokenizer.longest_token
    count = await transports.client.count_tokens(MODEL_ID, prompt=piece * 400)

    assert count.token_count <= CONTEXT
