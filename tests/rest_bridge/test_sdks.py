"""Existing SDKs work unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import openai
import polargrid
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam

from tests.rest_bridge.running import RunningBridge
from tests.support.scripted import (
    Running,
    ScriptedService,
    delta,
    error_info,
    finished,
    refuse,
    retry_info,
    started,
    summary,
)

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
LINE_BREAKS = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\r\nh"


@pytest.fixture
async def openai_client(bridge: RunningBridge) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{bridge.url}/v1", api_key="pg_any", max_retries=0) as client:
        yield client


@pytest.fixture
def polargrid_client(bridge: RunningBridge) -> polargrid.PolarGrid:
    return polargrid.PolarGrid(api_key="pg_any", base_url=bridge.url)


async def test_openai_chat(openai_client: openai.AsyncOpenAI) -> None:
    """The SDK's own model accepts the reply strictly."""
    raw = await openai_client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    reply = ChatCompletion.model_validate_json(raw.text, strict=True)

    assert reply.choices[0].message.content == "Hello"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert (reply.usage.total_tokens, reply.usage.prompt_tokens_details) == (
        5,
        openai.types.completion_usage.PromptTokensDetails(cached_tokens=1),
    )


async def test_openai_stream(openai_client: openai.AsyncOpenAI) -> None:
    """The SDK's own model accepts the chunks, with the usage at the end on request."""
    stream = await openai_client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump())

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage is not None) == ([], True)


async def test_openai_completions(openai_client: openai.AsyncOpenAI) -> None:
    """They work whole and streamed."""
    whole = await openai_client.completions.create(model="m", prompt="x")
    stream = await openai_client.completions.create(model="m", prompt=[1, 2], stream=True)
    pieces = [chunk.choices[0].text async for chunk in stream]

    Completion.model_validate(whole.model_dump())
    assert whole.choices[0].text == "Hello"
    assert "".join(pieces) == "Hello"


async def test_openai_models(openai_client: openai.AsyncOpenAI) -> None:
    """They are listed and retrieved."""
    page = await openai_client.models.list()
    one = await openai_client.models.retrieve("m")

    Model.model_validate(one.model_dump())
    assert [model.id for model in page.data] == ["m"]
    assert one.owned_by == "us"


async def test_openai_blocking(bridge: RunningBridge) -> None:
    """The blocking client runs in a separate thread."""

    def ask() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{bridge.url}/v1", api_key="pg_any", max_retries=0) as client:
            whole = client.chat.completions.create(model="m", messages=MESSAGES)
            stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        return whole.choices[0].message.content, text

    assert await asyncio.to_thread(ask) == ("Hello", "Hello")


async def test_openai_may_send_parameters_without_effect(openai_client: openai.AsyncOpenAI) -> None:
    """They cause no error."""
    raw = await openai_client.chat.completions.with_raw_response.create(
        model="m", messages=MESSAGES, n=1, store=True, metadata={"a": "b"}, service_tier="auto", seed=1
    )

    names = raw.headers["x-ignored-parameters"].split(",")
    assert sorted(names) == ["metadata", "service_tier", "store"]


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VALUE", openai.BadRequestError),
        (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY", openai.AuthenticationError),
        (grpc.StatusCode.PERMISSION_DENIED, "INSUFFICIENT_SCOPE", openai.PermissionDeniedError),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", openai.NotFoundError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", openai.RateLimitError),
        (grpc.StatusCode.INTERNAL, "INTERNAL_ERROR", openai.InternalServerError),
    ],
)
async def test_openai_raises_its_own_errors(
    openai_client: openai.AsyncOpenAI,
    service: ScriptedService,
    code: grpc.StatusCode,
    reason: str,
    expected: type[openai.APIStatusError],
) -> None:
    """They depend on the status, and have code, param and request id where the SDK reads them."""

    async def fail(request: Any, context: Any) -> Any:
        await refuse(context, code, "no", error_info(reason))

    service.answer = fail
    with pytest.raises(expected) as caught:
        await openai_client.chat.completions.create(model="m", messages=MESSAGES)

    assert caught.value.code == reason.lower()
    assert caught.value.request_id


async def test_openai_waits_for_the_retry_time(bridge: RunningBridge, service: ScriptedService) -> None:
    """The retry follows `retry-after-ms` and succeeds."""
    calls = 0
    answer = service.answer

    async def full_once(request: Any, context: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            info = error_info("QUEUE_FULL"), retry_info(0.05)
            await refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", *info)
        return await answer(request, context)

    service.answer = full_once
    async with openai.AsyncOpenAI(base_url=f"{bridge.url}/v1", api_key="x", max_retries=1) as client:
        reply = await client.chat.completions.create(model="m", messages=MESSAGES)

    assert (reply.choices[0].message.content, calls) == ("Hello", 2)


async def test_openai_raises_on_a_stream_that_fails(
    openai_client: openai.AsyncOpenAI, service: ScriptedService
) -> None:
    """The error event becomes an exception in the loop over the stream."""

    async def fail_late(request: Any, context: Any) -> Any:
        yield started()
        yield delta("x")
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "draining", error_info("NOT_READY"))

    service.stream = fail_late
    stream = await openai_client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="draining"):
        async for _ in stream:
            pass


async def test_closing_the_openai_stream_cancels_the_generation(
    openai_client: openai.AsyncOpenAI, service: ScriptedService
) -> None:

    async def endless(request: Any, context: Any) -> Any:
        yield started()
        while True:
            yield delta("x")
            await asyncio.sleep(0.01)

    service.stream = endless
    async with await openai_client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True
    ) as stream:
        async for _ in stream:
            break
    for _ in range(500):
        if not service.running:
            break
        await asyncio.sleep(0.01)

    assert (service.running, service.cancelled) == (0, 1)


async def test_polargrid_chat(polargrid_client: polargrid.PolarGrid, running: Running) -> None:
    """It has metadata, and the nulls that the SDK sends count as unset."""
    reply = await polargrid_client.chat_completion(
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "enable_thinking": False}
    )

    assert reply.choices[0].message.content == "Hello"
    assert reply.usage.total_tokens == 5
    assert reply.pg_metadata is not None
    assert reply.pg_metadata.region == "local"
    assert not running.service.seen[0].request.sampling.HasField("top_k")


async def test_polargrid_stream(polargrid_client: polargrid.PolarGrid) -> None:
    """Every chunk is one that it can read."""
    request = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    chunks = [chunk async for chunk in polargrid_client.chat_completion_stream(request)]

    assert len(chunks) == 4
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_polargrid_completion(polargrid_client: polargrid.PolarGrid) -> None:
    """The SDK sends `stop` and `user` as null."""
    reply = await polargrid_client.completion({"model": "m", "prompt": "hi"})

    assert reply.choices[0].text == "Hello"
    assert reply.choices[0].finish_reason == "stop"


async def test_polargrid_completion_stream(
    polargrid_client: polargrid.PolarGrid, service: ScriptedService
) -> None:
    """The SDK splits lines at Unicode line breaks, but loses no text."""

    async def hard(request: Any, context: Any) -> Any:
        yield started()
        for character in LINE_BREAKS:
            yield delta(character)
        yield finished()
        yield summary()

    service.stream = hard
    request = {"model": "m", "prompt": "hi"}
    chunks = [chunk async for chunk in polargrid_client.completion_stream(request)]

    assert "".join(chunk.choices[0].text for chunk in chunks) == LINE_BREAKS


async def test_polargrid_models_and_health(polargrid_client: polargrid.PolarGrid) -> None:
    """The SDK has stricter models of both."""
    models = await polargrid_client.list_models()
    one = await polargrid_client.get_model("m")
    health = await polargrid_client.health()

    assert [model.id for model in models.data] == ["m"]
    assert one.root == "m"
    assert (health.status, health.node, health.backend.healthy) == ("healthy", "local", True)


async def test_polargrid_errors(polargrid_client: polargrid.PolarGrid, service: ScriptedService) -> None:
    """The exception depends on the status."""

    async def fail(request: Any, context: Any) -> Any:
        await refuse(context, grpc.StatusCode.NOT_FOUND, "no such model", error_info("MODEL_NOT_FOUND"))

    service.answer = fail
    with pytest.raises(polargrid.NotFoundError):
        await polargrid_client.completion({"model": "x", "prompt": "hi"})
