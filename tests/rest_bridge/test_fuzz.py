"""Random and invalid bodies never cause a 5xx or a hang on the real service."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rest_bridge.openai import policy
from rest_bridge.openai.requests import ChatCompletionRequest
from tests.rest_bridge.bodies import CHAT, COMPLETIONS, COMPLETIONS_STREAM
from tests.rest_bridge.running import running_bridge
from tests.support.service import MODEL_ID, running_service

TIMEOUT_SECONDS = 20.0
NAMES = sorted(
    {*ChatCompletionRequest.model_fields, "prompt", *policy.REFUSED_IN_CHAT, *policy.WITHOUT_EFFECT}
)
LIMITED = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63, -(2**63) - 1]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["user", "text", "stop", MODEL_ID, "\u0000", "\ud800"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=8) | st.sampled_from(NAMES), inner)
    ),
    max_leaves=12,
)
schemas = st.sampled_from([{}, {"type": "object"}, {"enum": ["a", 1, None]}, {"$ref": "#/$defs/x"}]) | (
    st.dictionaries(st.sampled_from(["type", "properties", "items", "anyOf", "pattern", "$ref"]), anything)
)
formats = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "json_object", "json_schema", "regex", "grammar", "ebnf", "xml"])},
    optional={
        "json_schema": st.fixed_dictionaries({"schema": schemas}) | anything,
        "regex": st.text(max_size=5),
        "grammar": anything,
    },
)
tools = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.sampled_from(["f", "g", "", "a b"]) | anything},
            optional={"parameters": schemas | anything, "description": anything},
        ),
    }
)
calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(max_size=3),
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": st.sampled_from(["f", ""]), "arguments": st.sampled_from(["{}", "[", '{"a":1}'])}
            ),
        }
    ),
    max_size=2,
)
turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "developer", "tool"])},
        optional={
            "content": anything,
            "name": anything,
            "tool_calls": calls | anything,
            "tool_call_id": anything,
        },
    ),
    max_size=4,
)
plausible = st.fixed_dictionaries(
    {"model": st.just(MODEL_ID), "max_tokens": st.integers(1, 8)},
    optional={
        "messages": turns | anything,
        "prompt": st.text(max_size=20) | st.lists(st.integers(0, 60_000), max_size=8) | anything,
        "temperature": st.floats(-1, 3) | anything,
        "top_p": st.floats(-1, 2) | anything,
        "top_k": st.integers(-2, 9) | anything,
        "seed": st.integers(-(2**64), 2**64),
        "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=6) | anything,
        "stop_token_ids": st.lists(st.integers(-1, 60_000), max_size=4) | anything,
        "stream": st.booleans() | anything,
        "stream_options": st.fixed_dictionaries({}, optional={"include_usage": anything}) | anything,
        "user": anything,
        "n": st.integers(0, 4) | anything,
        "logprobs": st.booleans() | st.integers(-1, 21) | anything,
        "top_logprobs": st.integers(-1, 21) | anything,
        "logit_bias": st.dictionaries(
            st.integers(-1, 60_000).map(str) | st.text(max_size=3),
            st.floats(-101, 101) | anything,
            max_size=3,
        )
        | anything,
        "echo": st.booleans(),
        "best_of": st.integers(0, 3),
        "include_stop_str_in_output": st.booleans(),
        "validate_only": st.booleans(),
        "response_format": formats | anything,
        "guided_json": schemas | anything,
        "guided_regex": st.text(max_size=6) | st.sampled_from(["[a-z]{1,3}", "(a|b)*", "(", "\\p{L}"]),
        "guided_grammar": st.sampled_from(['root ::= "a"', "root ::= root", "x", ""]) | anything,
        "tools": st.lists(tools, max_size=3) | anything,
        "tool_choice": st.sampled_from(["auto", "none", "required"]) | tools | anything,
        "parallel_tool_calls": st.booleans() | anything,
        "add_generation_prompt": st.booleans() | anything,
        "continue_final_message": st.booleans() | anything,
    },
)
paths = st.sampled_from([CHAT, COMPLETIONS, COMPLETIONS_STREAM])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The bytes of a plausible body, some of which are changed, removed or repeated."""
    raw = bytearray(_dump(draw(plausible)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        piece = draw(
            st.binary(max_size=3) | st.sampled_from([b"{", b"]", b'"', b"\\u", b"NaN", b"1e999", b"\0"])
        )
        raw[at : at + draw(st.integers(0, 3))] = piece
    return bytes(raw)


def _dump(body: Any) -> bytes:
    # Python writes lone surrogates and NaN as invalid JSON.
    return json.dumps(body).encode()


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """A blocking client of a bridge whose loop runs in a thread, since hypothesis runs plain functions."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stack = AsyncExitStack()

    async def start() -> str:
        service = await stack.enter_async_context(running_service())
        bridge = await stack.enter_async_context(running_bridge(service.address))
        return bridge.url

    url = asyncio.run_coroutine_threadsafe(start(), loop).result(120)
    with httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS) as client:
        yield client
    asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


def _check(reply: httpx.Response) -> None:
    assert reply.status_code in (200, 400, 404), reply.text
    assert reply.headers["x-request-id"]
    if reply.status_code != 200:
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(error["message"].encode()) <= 1000
    elif reply.headers["content-type"] == "text/event-stream":
        assert reply.text.endswith("data: [DONE]\n\n"), reply.text[-500:]
    else:
        assert reply.json()["choices"] or reply.json()["object"] == "validation"


@LIMITED
@given(path=paths, body=plausible)
@example(path=CHAT, body={"model": MODEL_ID, "messages": [], "max_tokens": 1})
@example(path=COMPLETIONS, body={"model": MODEL_ID, "prompt": "", "max_tokens": 1})
@example(path=COMPLETIONS, body={"model": MODEL_ID, "prompt": "\x00", "max_tokens": 1})
@example(path=COMPLETIONS, body={"model": MODEL_ID, "prompt": [2**31], "max_tokens": 1})
@example(path=COMPLETIONS, body={"model": "\x00", "prompt": "x"})
def test_plausible_bodies_never_cause_a_5xx(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """They have valid names with values of any kind."""
    _check(http.post(path, content=_dump(body)))


@LIMITED
@given(path=paths, body=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), anything) | anything)
def test_any_json_never_causes_a_5xx(http: httpx.Client, path: str, body: Any) -> None:
    """Names, values and nesting are random."""
    _check(http.post(path, content=_dump(body)))


@LIMITED
@given(path=paths, raw=mutated() | st.binary(max_size=200))
def test_any_bytes_never_cause_a_5xx(http: httpx.Client, path: str, raw: bytes) -> None:
    """Some bodies are damaged JSON, others random bytes."""
    _check(http.post(path, content=raw))
