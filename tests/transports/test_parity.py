"""The same request over both transports gives the same text, ids, usage, and class of error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.answers import check_equal
from tests.support.service import MODEL_ID
from tests.support.transports import Transports, running_transports

_ASK: dict[str, Any] = {
    "model": MODEL_ID,
    "messages": [{"role": "user", "content": "Say something nice: ☀️ 日本語 é"}],
    "max_tokens": 24,
}
_SYSTEM = {"role": "system", "content": "You are a helpful assistant."}

GOOD: dict[str, dict[str, Any]] = {
    "chat": {**_ASK, "seed": 1},
    "greedy": {**_ASK, "temperature": 0},
    "alias": {**_ASK, "model": "llama-3.1-8b", "temperature": 0},
    "system": {**_ASK, "messages": [_SYSTEM, *_ASK["messages"]], "temperature": 0},
    "turns": {
        **_ASK,
        "messages": [
            *_ASK["messages"],
            {"role": "assistant", "content": "Fine."},
            {"role": "user", "content": "<|im_end|> again"},
        ],
        "seed": -5,
    },
    "prompt": {"model": MODEL_ID, "prompt": "Once upon a time", "seed": 3, "max_tokens": 24},
    "token ids": {"model": MODEL_ID, "prompt": [504, 3575, 282], "temperature": 0, "max_tokens": 24},
    "default length": {"model": MODEL_ID, "prompt": "Once upon a time", "temperature": 0},
    "one token": {**_ASK, "seed": 1, "max_tokens": 1},
    "length": {**_ASK, "seed": 1, "max_tokens": 7},
    "ignore_eos": {**_ASK, "seed": 1, "max_tokens": 60, "ignore_eos": True},
    "stop": {**_ASK, "temperature": 0, "stop": ["nice"]},
    "stop as string": {**_ASK, "temperature": 0, "stop": " a"},
    "stop tokens": {**_ASK, "temperature": 0, "stop_token_ids": [30, 216]},
    "every parameter": {
        **_ASK,
        "temperature": 1.3,
        "top_p": 0.5,
        "top_k": 40,
        "min_p": 0.05,
        "frequency_penalty": 0.3,
        "presence_penalty": -0.2,
        "repetition_penalty": 1.1,
        "seed": 2**40,
        "user": "somebody",
        "max_tokens": 30,
    },
    "parameters off": {**_ASK, "top_k": -1, "min_p": 0, "top_p": 1, "repetition_penalty": 1, "seed": 9},
    "zero top_p": {**_ASK, "top_p": 0, "seed": 11, "max_tokens": 12},
}

BAD: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "no model": ({"messages": _ASK["messages"]}, "missing_required_parameter", "model"),
    "unknown model": ({**_ASK, "model": "gpt-9"}, "model_not_found", "model"),
    "no messages": ({"model": MODEL_ID, "messages": []}, "invalid_value", "messages"),
    "empty prompt": ({"model": MODEL_ID, "prompt": ""}, "invalid_value", "prompt"),
    "prompt without tokens": ({"model": MODEL_ID, "prompt": "\x04"}, "invalid_value", "prompt"),
    "token over the vocabulary": (
        {"model": MODEL_ID, "prompt": [1, 200_000]},
        "invalid_value",
        "prompt[1]",
    ),
    "hot": ({**_ASK, "temperature": 2.1}, "invalid_value", "temperature"),
    "cold": ({**_ASK, "temperature": -0.1}, "invalid_value", "temperature"),
    "top_p": ({**_ASK, "top_p": 1.01}, "invalid_value", "top_p"),
    "top_k": ({**_ASK, "top_k": -2}, "invalid_value", "top_k"),
    "min_p": ({**_ASK, "min_p": 2}, "invalid_value", "min_p"),
    "frequency": ({**_ASK, "frequency_penalty": 2.5}, "invalid_value", "frequency_penalty"),
    "presence": ({**_ASK, "presence_penalty": -2.5}, "invalid_value", "presence_penalty"),
    "repetition": ({**_ASK, "repetition_penalty": 0}, "invalid_value", "repetition_penalty"),
    "no tokens": ({**_ASK, "max_tokens": 0}, "invalid_value", "max_tokens"),
    "many tokens": ({**_ASK, "max_tokens": 4097}, "invalid_value", "max_tokens"),
    "five stops": ({**_ASK, "stop": list("abcde")}, "invalid_value", "stop"),
    "empty stop": ({**_ASK, "stop": ["a", ""]}, "invalid_value", "stop[1]"),
    "stop token": ({**_ASK, "stop_token_ids": [200_000]}, "invalid_value", "stop_token_ids[0]"),
    "long user": ({**_ASK, "user": "u" * 257}, "invalid_value", "user"),
    "long prompt": (
        {"model": MODEL_ID, "prompt": [504] * 9000},
        "context_length_exceeded",
        "prompt",
    ),
    "a full context": (
        {"model": MODEL_ID, "prompt": [504] * 8000, "max_tokens": 400},
        "context_length_exceeded",
        "prompt",
    ),
}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["simulated", "llama_cpp", "tensorrt_llm"]
)
async def transports(request: pytest.FixtureRequest) -> AsyncIterator[Transports]:
    # One thread: two threads that wait for each other stop whenever another process takes a core.
    settings: dict[str, Any] = {"backend": request.param, "threads": 1}
    if request.param == "tensorrt_llm":
        settings = request.getfixturevalue("serve_engine")()
    async with running_transports(alias={"llama-3.1-8b": MODEL_ID}, **settings) as both:
        yield both


@pytest.mark.parametrize("name", GOOD)
async def test_good_requests_are_answered_alike(transports: Transports, name: str) -> None:
    """Text, ids, ending, usage and parameters in effect agree over gRPC and REST, whole and streamed."""
    first, *others = [await ask(GOOD[name]) for ask in transports.ways]

    assert first.error is None
    assert first.text
    for other in others:
        check_equal(first, other)


@pytest.mark.parametrize("name", BAD)
async def test_bad_requests_are_refused_alike(transports: Transports, name: str) -> None:
    """Both transports name the same code and, where the fault is the caller's, the same parameter."""
    request, code, param = BAD[name]
    if name == "prompt without tokens" and transports.service.loaded.model.tokenizer.encode_prompt("\x04"):
        pytest.skip("the vocabulary has a token for every byte")
    first, *others = [await ask(request) for ask in transports.ways]

    assert first.error == code
    for other in others:
        check_equal(first, other)
    if first.param is not None:
        assert first.param == param
