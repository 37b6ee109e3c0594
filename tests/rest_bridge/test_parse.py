from __future__ import annotations

import json
import time
from typing import Any

import pytest

from rest_bridge.errors import ApiError, error_body
from rest_bridge.openai.requests import ChatCompletionRequest, CompletionRequest
from rest_bridge.request import parse_body
from tests.rest_bridge.bodies import chat, completion

SECRET = "do not repeat me"


def refused(body: bytes | dict[str, Any]) -> ApiError:
    """The error for a body of a chat or completion."""
    is_completion = isinstance(body, dict) and "prompt" in body
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ApiError) as caught:
        parse_body(CompletionRequest if is_completion else ChatCompletionRequest, raw)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n\t",
        b"{",
        b'{"model": "m",}',
        b"{}{}",
        b"[]",
        b"null",
        b'"text"',
        b"model=m",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"model": "\x00"}',
        b'{"temperature": NaN}',
        b'{"temperature": -Infinity}',
        b'{"unknown": NaN}',
        b'{"model": "\\ud800"}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"x":' * 5000 + b"1" + b"}" * 5000,
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    """The error is a 400 without a parameter."""
    error = refused(body)

    assert (error.status, error.code, error.param) == (400, "invalid_value", None)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "model", "missing_required_parameter"),
        ({"model": "m"}, "messages", "missing_required_parameter"),
        (chat(model=None), "model", "invalid_value"),
        (chat(model=5), "model", "invalid_value"),
        (chat(messages={}), "messages", "invalid_value"),
        (chat(messages=[1]), "messages[0]", "invalid_value"),
        (chat(messages=[{"content": "x"}]), "messages[0].role", "missing_required_parameter"),
        (chat(messages=[{"role": "user"}]), "messages[0].content", "missing_required_parameter"),
        (
            chat(messages=[{"role": "system", "content": None}]),
            "messages[0].content",
            "missing_required_parameter",
        ),
        (chat(messages=[{"role": "user", "content": 5}]), "messages[0].content", "invalid_value"),
        (chat(messages=[{"role": "wizard", "content": "x"}]), "messages[0].role", "invalid_value"),
        (chat(messages=[{"role": "function", "content": "x"}]), "messages[0].role", "unsupported_parameter"),
        (
            chat(
                messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]
            ),
            "messages[0].content[1].type",
            "unsupported_parameter",
        ),
        (
            chat(messages=[{"role": "user", "content": [{"type": "text", "text": 1}]}]),
            "messages[0].content[0].text",
            "invalid_value",
        ),
        (chat(max_tokens="5"), "max_tokens", "invalid_value"),
        (chat(max_tokens=True), "max_tokens", "invalid_value"),
        (chat(max_tokens=1.0), "max_tokens", "invalid_value"),
        (chat(temperature="hot"), "temperature", "invalid_value"),
        (chat(temperature=True), "temperature", "invalid_value"),
        (chat(temperature=10**400), "temperature", "invalid_value"),
        (chat(top_k=[1]), "top_k", "invalid_value"),
        (chat(seed=1.5), "seed", "invalid_value"),
        (chat(stop=5), "stop", "invalid_value"),
        (chat(stop=["a", None]), "stop[1]", "invalid_value"),
        (chat(stop_token_ids=[1, "2"]), "stop_token_ids[1]", "invalid_value"),
        (chat(ignore_eos=0), "ignore_eos", "invalid_value"),
        (chat(stream="true"), "stream", "invalid_value"),
        (chat(stream_options=True), "stream_options", "invalid_value"),
        (chat(stream_options={"include_usage": 1}), "stream_options.include_usage", "invalid_value"),
        (chat(user=["me"]), "user", "invalid_value"),
        (chat(return_token_ids="yes"), "return_token_ids", "invalid_value"),
        (completion(prompt=None), "prompt", "invalid_value"),
        (completion(prompt=[]), "prompt", "invalid_value"),
        (completion(prompt=["a"] * 17), "prompt", "invalid_value"),
        (completion(prompt=["a", 1]), "prompt[1]", "invalid_value"),
        (completion(prompt=["a", [1]]), "prompt[1]", "invalid_value"),
        (completion(prompt=[[1], "a"]), "prompt[1]", "invalid_value"),
        (completion(prompt=[[1], [2, "b"]]), "prompt[1][1]", "invalid_value"),
        (completion(prompt={}), "prompt", "invalid_value"),
        (completion(logprobs=True), "logprobs", "invalid_value"),
        (completion(echo=1), "echo", "invalid_value"),
        (completion(best_of="1"), "best_of", "invalid_value"),
        (chat(logprobs=1), "logprobs", "invalid_value"),
        (chat(top_logprobs=True), "top_logprobs", "invalid_value"),
        (chat(n=1.0), "n", "invalid_value"),
        (chat(n=True), "n", "invalid_value"),
        (chat(include_stop_str_in_output="yes"), "include_stop_str_in_output", "invalid_value"),
        (chat(validate_only=1), "validate_only", "invalid_value"),
        (completion(prompt=[1, "b"]), "prompt[1]", "invalid_value"),
        (completion(prompt=[True]), "prompt[0]", "invalid_value"),
        (completion(prompt=[["b"]]), "prompt[0][0]", "invalid_value"),
    ],
    ids=json.dumps,
)
def test_a_wrong_type_is_refused_by_name(body: dict[str, Any], param: str, code: str) -> None:
    """The parameter is named with its path, in `param` and in the message."""
    error = refused(body)

    assert (error.status, error.param, error.code) == (400, param, code)
    assert param in error.message


def test_all_wrong_parameters_are_reported_together() -> None:
    """The message names all wrong parameters, and `param` the first."""
    error = refused(chat(temperature="x", stop=5))

    assert error.param == "temperature"
    assert "stop must be" in error.message


@pytest.mark.parametrize(
    "body",
    [
        chat(temperature=SECRET),
        chat(messages=[{"role": SECRET, "content": "x"}]),
        chat(messages=[{"role": "user", "content": [{"type": SECRET}]}]),
        chat(messages=[{"role": "user", "content": {SECRET: 1}}]),
        chat(stop=[{SECRET: 1}]),
        completion(prompt=[SECRET, 1]),
        completion(prompt=[SECRET] * 20),
        chat(logit_bias={SECRET: 1}),
        chat(tools=[{"type": SECRET}]),
        chat(tools=[{"type": "function", "function": {"name": [SECRET]}}]),
        chat(tool_choice=SECRET),
        chat(response_format={"type": SECRET}),
        chat(guided_json=[SECRET]),
        b'{"model": "' + SECRET.encode() + b'"',
        SECRET.encode(),
    ],
    ids=str,
)
def test_input_is_never_repeated(body: bytes | dict[str, Any]) -> None:
    """No error repeats values of the caller."""
    assert SECRET not in json.dumps(error_body(refused(body)))


@pytest.mark.parametrize(
    "body",
    [
        completion(prompt=[True] * 500_000),
        completion(prompt=["x"] * 500_000),
        chat(messages=[{"role": "x"}] * 100_000),
        chat(stop=[1] * 500_000),
        chat(tools=[{}] * 500_000),
        chat(logit_bias={f"x{number}": 1 for number in range(100_000)}),
        {f"k{number}": 1 for number in range(100_000)},
    ],
    ids=["ids", "prompts", "messages", "stops", "tools", "biases", "names"],
)
def test_a_large_bad_body_is_refused_quickly_and_briefly(body: dict[str, Any]) -> None:
    """Both the work and the message for a body with many errors are bounded."""
    began = time.thread_time()
    error = refused(body)

    assert time.thread_time() - began < 5
    assert len(json.dumps(error_body(error))) < 1200
