from __future__ import annotations

import re
from typing import Any

import pytest

from inference_client import (
    AsyncClient,
    Choice,
    Client,
    Finished,
    FinishReason,
    Generation,
    ProtocolError,
    StopCause,
    Timings,
    Usage,
    build_request,
)
from tests.inference_client.conftest import Caller
from tests.support.scripted import Response, ScriptedService, whole_answer

WHOLE = Generation(
    request_id="server-id",
    model="m",
    created=7,
    choices=(Choice(0, "Hello", (1, 2), 2, Finished(0, FinishReason.STOP, StopCause.END_OF_SEQUENCE)),),
    usage=Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1),
    timings=Timings(queue_ms=1.0, prefill_ms=2.0, decode_ms=3.0, time_to_first_token_ms=4.0),
)


async def test_the_answer_arrives_whole(caller: Caller) -> None:
    generation = await caller.call("generate", model="m", prompt="p")

    assert generation == WHOLE
    assert (generation.text, generation.finish_reason, generation.usage.total_tokens) == ("Hello", "stop", 5)


async def test_a_collected_stream_is_the_same_answer(client: AsyncClient) -> None:
    async with client.stream(model="m", prompt="p") as stream:
        assert await stream.collect() == WHOLE


async def test_a_ready_message_brings_its_own_key_id_and_metadata(
    caller: Caller, service: ScriptedService
) -> None:
    """The key of a call overrides the client's; the message is sent unchanged."""
    request = build_request(model="m", prompt="p", temperature=0)
    await caller.call(
        "generate_request",
        request,
        api_key="pg_mine",
        request_id="abc.1:2-3_4",
        metadata=(("traceparent", "00-1-2-01"), ("blob-bin", b"\x00")),
    )

    seen = service.seen[0]
    assert seen.request == request
    assert seen.metadata["authorization"] == "Bearer pg_mine"
    assert seen.metadata["x-request-id"] == "abc.1:2-3_4"
    assert (seen.metadata["traceparent"], seen.metadata["blob-bin"]) == ("00-1-2-01", b"\x00")


async def test_the_clients_key_is_sent_with_every_call(make_caller: Any, running: Any) -> None:
    caller = make_caller(running.target, api_key="pg_ours")
    await caller.call("generate", model="m", prompt="p")
    await caller.events(model="m", prompt="p")
    await caller.call("list_models")

    assert {seen.metadata["authorization"] for seen in running.service.seen} == {"Bearer pg_ours"}


async def test_a_call_without_an_id_gets_one(client: AsyncClient, service: ScriptedService) -> None:
    for _ in range(2):
        await client.generate(model="m", prompt="p")

    first, second = (str(seen.metadata["x-request-id"]) for seen in service.seen)
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", first)
    assert first != second


@pytest.mark.parametrize("request_id", ["", "a b", "é", "x" * 129, "a\n"])
async def test_a_malformed_request_id_is_refused(client: AsyncClient, request_id: str) -> None:
    with pytest.raises(ValueError, match="request_id must be 1 to 128"):
        await client.generate(model="m", prompt="p", request_id=request_id)


@pytest.mark.parametrize("item", [("Upper", "x"), ("k", "é"), ("k", "a\nb"), ("k", b"x"), ("k-bin", "x")])
async def test_metadata_that_are_no_valid_headers_are_refused(client: AsyncClient, item: Any) -> None:
    with pytest.raises(ValueError, match="metadata"):
        await client.generate_request(build_request(model="m", prompt="p"), metadata=[item])


async def test_reasons_of_a_newer_service_are_unknown(caller: Caller, service: ScriptedService) -> None:
    """FinishReason and StopCause are open enums."""

    async def answer(request: Any, context: Any) -> Response:
        response = whole_answer()
        response.choices[0].finished.reason = 99  # type: ignore[assignment]
        response.choices[0].finished.cause = 99  # type: ignore[assignment]
        return response

    service.answer = answer
    generation = await caller.call("generate", model="m", prompt="p")

    assert generation.finish_reason is FinishReason.UNKNOWN
    assert generation.choices[0].finished.cause is StopCause.UNKNOWN


@pytest.mark.parametrize("broken", [Response(), Response(choices=[{}])])  # type: ignore[list-item]
async def test_an_incomplete_answer_is_a_protocol_error(
    caller: Caller, service: ScriptedService, broken: Response
) -> None:
    async def answer(request: Any, context: Any) -> Response:
        return broken

    service.answer = answer
    with pytest.raises(ProtocolError) as caught:
        await caller.call("generate", model="m", prompt="p", request_id="r1")

    assert caught.value.request_id == "r1"


async def test_an_async_client_may_be_made_before_the_loop_runs(running: Any) -> None:
    """It connects in the event loop of its first call, so it can be a global of a module."""
    import asyncio

    def elsewhere() -> str:
        client = AsyncClient(running.target)

        async def use() -> str:
            async with client:
                return (await client.generate(model="m", prompt="p")).text

        return asyncio.run(use())

    assert await asyncio.to_thread(elsewhere) == "Hello"


@pytest.mark.parametrize("kind", [AsyncClient, Client])
@pytest.mark.parametrize("target", ["", "http://127.0.0.1:50051"])
def test_an_invalid_target_is_refused(kind: Any, target: str) -> None:
    with pytest.raises(ValueError, match="target must be host:port"):
        kind(target)
