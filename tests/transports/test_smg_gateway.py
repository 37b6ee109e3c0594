"""The gateway smg from PyPI before two services that speak its worker protocol."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from benchmarks.rival import gateway
from inference_client import AsyncClient
from inference_service.rpc.health import State
from tests.support.calls import eventually, is_free
from tests.support.processes import server_process
from tests.support.service import MODEL_ID, Running
from tests.support.smg import running_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROGRAM = Path(sys.executable).parent / "smg"
LONG = {"max_tokens": 3000, "ignore_eos": True, "stream": True}
ABSENT = Path("/nonexistent/model")
"""No tokenizer is there, so the gateway asks a worker for its own."""


@asynccontextmanager
async def running_gateway(addresses: Sequence[str], *options: str) -> AsyncIterator[httpx.AsyncClient]:
    """The gateway before the services at these addresses, and a caller of its HTTP."""
    before = gateway(PROGRAM, [f"grpc://{address}" for address in addresses], ABSENT, *options)
    url = await asyncio.to_thread(before.__enter__)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            yield http
    finally:
        await asyncio.to_thread(before.__exit__, None, None, None)


@dataclass
class Fleet:
    """Two services, and the gateway before them."""

    services: Sequence[Running]
    http: httpx.AsyncClient
    served: list[tuple[int, int]] = field(default_factory=list)
    """Of each generation that ended: the number of its service, and its tokens of prompt."""

    async def chat(self, text: str, **members: Any) -> dict[str, Any]:
        body = {"model": MODEL_ID, "messages": [{"role": "user", "content": text}], **members}
        answer = await self.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def watch(self, number: int) -> None:
        """Note what a service serves."""

        def observe(call: Any, _: str) -> None:
            if call.method == "SmgGenerate":
                self.served.append((number, call.facts.get("prompt_tokens", 0)))

        self.services[number].server.calls.observers.append(observe)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        services = [
            await stack.enter_async_context(running_worker(max_concurrency=16, simulated_decode_tps=100))
            for _ in range(2)
        ]
        http = await stack.enter_async_context(running_gateway([one.address for one in services]))
        found = Fleet(services, http)
        for number in range(2):
            found.watch(number)
        yield found


async def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; the last one is `[DONE]`, where it came."""
    lines = [
        line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: ")
    ]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_chat(fleet: Fleet) -> None:
    answer = await fleet.chat("Say @say<<one two three STOP four>>", max_tokens=20, stop=[" STOP"])

    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "one two three"
    assert (choice["finish_reason"], choice["matched_stop"]) == ("stop", " STOP")
    assert answer["usage"]["completion_tokens"] >= 3


async def test_chat_streamed(fleet: Fleet) -> None:
    body = {"model": MODEL_ID, "messages": [{"role": "user", "content": "Say @say<<Größe 😀, naïve>>"}]}
    options = {"stream": True, "max_tokens": 40, "stream_options": {"include_usage": True}}
    async with fleet.http.stream("POST", "/v1/chat/completions", json={**body, **options}) as response:
        *chunks, done = await events(response)

    texts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == "Größe 😀, naïve"
    assert len([text for text in texts if text]) > 2
    assert chunks[-1]["usage"]["completion_tokens"] > 3
    assert done == "[DONE]"


async def test_the_model_is_listed(fleet: Fleet) -> None:
    answer = await fleet.http.get("/v1/models")

    assert [model["id"] for model in answer.json()["data"]] == [MODEL_ID]


async def test_log_probabilities_and_json_schema(fleet: Fleet) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}

    answer = await fleet.chat("Hello", max_tokens=30, response_format=form, logprobs=True, top_logprobs=2)

    (choice,) = answer["choices"]
    assert isinstance(json.loads(choice["message"]["content"])["a"], int)
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)


async def test_a_refusal_reaches_the_caller(fleet: Fleet) -> None:
    body = {"model": MODEL_ID, "prompt": "Hello", "max_tokens": 8, "min_tokens": 4}

    answer = await fleet.http.post("/v1/completions", json=body)

    assert answer.status_code == 400
    assert "sampling_config.min_tokens is not supported" in answer.json()["error"]["message"]


async def test_a_caller_that_leaves_frees_the_engine(fleet: Fleet) -> None:
    body = {"model": MODEL_ID, "prompt": "Hello", **LONG}
    async with fleet.http.stream("POST", "/v1/completions", json=body) as response:
        await anext(response.aiter_lines())
        assert any(service.loaded.backend.stats().running for service in fleet.services)

    await eventually(lambda: all(map(is_free, fleet.services)))


async def test_prompts_with_the_same_beginning_go_to_the_same_worker(fleet: Fleet) -> None:
    """Without events of the cache, the gateway routes by the prompts that it sent before."""
    fleet.served.clear()
    families = [f"{letter}{letter} " * 60 for letter in "abcdefghijkl"]
    for number in range(3):
        for family in families:
            body = {"model": MODEL_ID, "prompt": f"{family}{number}", "max_tokens": 1}
            assert (await fleet.http.post("/v1/completions", json=body)).status_code == 200

    def workers() -> list[int]:
        return [service for service, tokens in fleet.served if tokens > 60]

    await eventually(lambda: len(workers()) == 3 * len(families))
    assert workers() == workers()[: len(families)] * 3
    # Each beginning went where there was least to do, so some went to either.
    assert set(workers()) == {0, 1}


async def test_a_worker_that_dies(tmp_path: Path) -> None:
    """Its stream ends with an error, not like a whole answer; the next requests go to the other worker."""
    settings = {"backend": "simulated", "model": MODEL_ID, "grpc_address": "127.0.0.1:0", "smg_worker": True}
    async with AsyncExitStack() as stack:
        dying = await stack.enter_async_context(
            server_process("serve", tmp_path, **settings, max_concurrency=16, simulated_decode_tps=50)
        )
        other = await stack.enter_async_context(running_worker(max_concurrency=16, simulated_decode_tps=50))
        http = await stack.enter_async_context(running_gateway([dying.address, other.address]))
        prompt, lines = await _stream_of_the_first(stack, http, other)

        dying.signal(signal.SIGKILL)
        async with asyncio.timeout(20):
            *_, error, done = [line async for line in lines if line.startswith("data: ")]

        assert json.loads(error.removeprefix("data: "))["error"]["type"] == "stream_error"
        assert done == "data: [DONE]"
        for text in (prompt, "another prompt", prompt):
            body = {"model": MODEL_ID, "prompt": text, "max_tokens": 3}
            answer = await http.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["completion_tokens"] == 3


async def _stream_of_the_first(
    stack: AsyncExitStack, http: httpx.AsyncClient, second: Running
) -> tuple[str, AsyncIterator[str]]:
    """Begin streams until one runs on the first of two workers; its prompt, and its lines after the first."""
    for letter in "abcdefghijkl":
        # Each is long enough for the gateway to route by it.
        prompt = f"{letter}{letter} " * 60
        body = {"model": MODEL_ID, "prompt": prompt, **LONG}
        response = await stack.enter_async_context(http.stream("POST", "/v1/completions", json=body))
        lines = response.aiter_lines()
        await anext(lines)
        if not second.loaded.admission.running:
            return prompt, lines
        await response.aclose()
        await eventually(lambda: is_free(second))
    raise AssertionError("the gateway used one worker alone")


async def test_a_worker_that_drains_gets_no_more_requests(fleet: Fleet) -> None:
    """A request that a worker refuses because it drains is answered by the other one."""
    fleet.served.clear()
    draining = fleet.services[0]
    draining.server.health.enter(State.DRAINING)
    draining.loaded.admission.close()

    for number in range(4):
        await fleet.chat(f"{number} times", max_tokens=2)

    await eventually(lambda: len([tokens for _, tokens in fleet.served if tokens > 30]) == 4)
    assert {service for service, tokens in fleet.served if tokens > 30} == {1}


async def test_the_embedded_engine_answers_as_it_does_directly() -> None:
    """The gateway renders the same conversation, with the service's own template and tokenizer."""
    async with AsyncExitStack() as stack:
        settings = {"backend": "llama_cpp", "max_concurrency": 2, "context_length": 1024}
        services = [await stack.enter_async_context(running_worker(**settings)) for _ in range(2)]
        http = await stack.enter_async_context(running_gateway([one.address for one in services]))
        client = await stack.enter_async_context(AsyncClient(services[0].address))
        question = "What is the capital of France?"

        ours = await client.generate(
            model=MODEL_ID, messages=[{"role": "user", "content": question}], max_tokens=16, temperature=0
        )
        theirs = await Fleet(services, http).chat(question, max_tokens=16, temperature=0)

    assert theirs["choices"][0]["message"]["content"] == ours.text
    assert theirs["usage"]["prompt_tokens"] == ours.usage.prompt_tokens
