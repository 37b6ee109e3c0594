from __future__ import annotations

from typing import Any

import grpc
import pytest

from inference_client import (
    AsyncClient,
    ContextLengthError,
    ProtocolError,
    Started,
    Summary,
    Validation,
    build_request,
)
from inference_client.request import build_validation
from tests.inference_client.conftest import Caller
from tests.inference_client.test_output import EXPLAINED
from tests.support.scripted import (
    REPORT,
    Response,
    ScriptedService,
    answering,
    delta,
    error_info,
    refuse,
    script,
    started,
    summary,
    validated,
)


async def test_a_valid_request_is_explained(caller: Caller, service: ScriptedService) -> None:
    service.answer = answering(validated())
    validation = await caller.call("validate", model="alias", prompt=["p", "q"], n=2, temperature=0)

    assert validation == Validation("server-id", "m", 3, EXPLAINED)
    request = service.seen[0].request
    assert (request.validate_only, request.output.n, request.sampling.temperature) == (True, 2, 0)


async def test_an_invalid_request_is_the_same_error(caller: Caller, service: ScriptedService) -> None:
    async def answer(request: Any, context: Any) -> Response:
        info = error_info("CONTEXT_LENGTH_EXCEEDED", prompt_tokens="9", max_tokens="1", context_length="8")
        await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "Too long.", info)
        return Response()

    service.answer = answer
    with pytest.raises(ContextLengthError, match="Too long"):
        await caller.call("validate", model="m", prompt="p")


async def test_a_ready_message_is_validated_and_not_changed(caller: Caller, service: ScriptedService) -> None:
    service.answer = answering(validated())
    request = build_request(model="m", prompt="p")
    await caller.call("validate_request", request, api_key="pg_mine", request_id="mine")

    assert not request.HasField("validate_only")
    assert service.seen[0].request.validate_only
    assert service.seen[0].metadata["authorization"] == "Bearer pg_mine"
    assert service.seen[0].metadata["x-request-id"] == "mine"


async def test_a_service_that_ignores_validate_only_is_detected(caller: Caller) -> None:
    """A service that is older than the field ignores it."""
    with pytest.raises(ProtocolError, match="too old to validate only"):
        await caller.call("validate", model="m", prompt="p")


async def test_a_stream_that_validates_has_no_choices(client: AsyncClient, service: ScriptedService) -> None:
    service.stream = script(started(), summary(REPORT))
    request = build_validation(build_request(model="m", prompt="p", n=2))
    async with client.stream_request(request) as stream:
        events = [event async for event in stream]
    async with client.stream_request(request) as stream:
        generation = await stream.collect()

    assert [type(event) for event in events] == [Started, Summary]
    assert (generation.choices, generation.report) == ((), EXPLAINED)


async def test_a_whole_answer_that_validates_has_no_choices(caller: Caller, service: ScriptedService) -> None:
    service.answer = answering(validated())
    request = build_validation(build_request(model="m", prompt="p"))
    generation = await caller.call("generate_request", request)

    assert (generation.choices, generation.usage.prompt_tokens) == ((), 3)


async def test_a_validation_stream_with_output_is_refused(
    client: AsyncClient, service: ScriptedService
) -> None:
    service.stream = script(started(), delta("a"))
    request = build_validation(build_request(model="m", prompt="p"))

    with pytest.raises(ProtocolError, match="Choice 0 was not requested"):
        await client.stream_request(request).collect()
