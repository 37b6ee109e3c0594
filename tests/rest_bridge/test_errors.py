from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

import inference_client
from inference_client import InferenceError
from rest_bridge import errors
from rest_bridge.errors import ApiError, api_error, error_body, error_response, in_rest_names, rest_name
from tests.rest_bridge.bodies import CHAT, chat
from tests.rest_bridge.running import RunningBridge, running_bridge
from tests.support.scripted import Running, ScriptedService, delta, error_info, refuse, retry_info, started

Code = grpc.StatusCode


@pytest.fixture
async def bridge(running: Running) -> AsyncIterator[RunningBridge]:
    """A bridge that soon stops to retry."""
    async with running_bridge(running.target, retry_timeout=0.3) as bridge:
        yield bridge


def _subclasses(kind: type[InferenceError]) -> Iterator[type[InferenceError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def test_every_error_of_the_client_has_a_row() -> None:
    """Every exception of a call has a row; others are internal errors."""
    internal = {inference_client.ProtocolError, inference_client.InternalError}

    assert set(_subclasses(InferenceError)) - internal == set(errors.TABLE) - internal


@dataclass(frozen=True, slots=True)
class Case:
    """An error of the service and the expected reply."""

    grpc_code: grpc.StatusCode
    reason: str | None
    http: int
    kind: str
    code: str
    details: tuple[Message, ...] = ()
    param: str | None = None
    retry: tuple[str, str] | None = None
    """`Retry-After` and `retry-after-ms`."""


def violation(field: str, reason: str) -> Message:
    item = error_details_pb2.BadRequest.FieldViolation(
        field=field, description="is wrong, from the service.", reason=reason
    )
    found: Message = error_details_pb2.BadRequest(field_violations=[item])
    return found


INVALID = "invalid_request_error"
CASES = [
    Case(
        Code.INVALID_ARGUMENT,
        "INVALID_VALUE",
        400,
        INVALID,
        "invalid_value",
        (violation("chat.messages[2].role", "INVALID_VALUE"),),
        "messages[2].role",
    ),
    Case(
        Code.INVALID_ARGUMENT,
        "MISSING_REQUIRED_PARAMETER",
        400,
        INVALID,
        "missing_required_parameter",
        (violation("model", "MISSING_REQUIRED_PARAMETER"),),
        "model",
    ),
    Case(Code.INVALID_ARGUMENT, "UNSUPPORTED_PARAMETER", 400, INVALID, "unsupported_parameter"),
    Case(Code.INVALID_ARGUMENT, "SOMETHING_NEW", 400, INVALID, "something_new"),
    Case(Code.INVALID_ARGUMENT, None, 400, INVALID, "invalid_value"),
    Case(
        Code.INVALID_ARGUMENT,
        "CONTEXT_LENGTH_EXCEEDED",
        400,
        INVALID,
        "context_length_exceeded",
        (violation("chat.messages", "CONTEXT_LENGTH_EXCEEDED"),),
        "messages",
    ),
    Case(Code.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", 413, INVALID, "request_too_large"),
    Case(Code.UNAUTHENTICATED, "INVALID_API_KEY", 401, "authentication_error", "invalid_api_key"),
    Case(Code.PERMISSION_DENIED, "INSUFFICIENT_SCOPE", 403, "permission_error", "insufficient_scope"),
    Case(Code.NOT_FOUND, "MODEL_NOT_FOUND", 404, INVALID, "model_not_found"),
    Case(Code.NOT_FOUND, "RECEIPT_NOT_FOUND", 404, INVALID, "receipt_not_found"),
    Case(
        Code.RESOURCE_EXHAUSTED,
        "RATE_LIMIT_EXCEEDED",
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        (retry_info(1.2),),
        retry=("2", "1200"),
    ),
    Case(
        Code.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        429,
        "overloaded_error",
        "queue_full",
        (retry_info(0.25),),
        retry=("1", "250"),
    ),
    Case(
        Code.UNAVAILABLE,
        "NOT_READY",
        503,
        "server_error",
        "not_ready",
        (retry_info(7),),
        retry=("7", "7000"),
    ),
    Case(Code.UNAVAILABLE, None, 503, "server_error", "not_ready", retry=("1", "1000")),
    Case(Code.CANCELLED, None, 503, "server_error", "not_ready", retry=("1", "1000")),
    Case(Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 504, "timeout_error", "deadline_exceeded"),
    Case(Code.INTERNAL, "INTERNAL_ERROR", 500, "server_error", "internal_error"),
    Case(Code.UNKNOWN, None, 500, "server_error", "internal_error"),
    Case(Code.DATA_LOSS, None, 500, "server_error", "internal_error"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.grpc_code.name}-{case.reason}")
async def test_errors_of_the_service_become_the_replies_of_the_table(
    case: Case, service: ScriptedService, http: httpx.AsyncClient
) -> None:
    """A failure before the first token is a plain reply with its status, also for streams."""
    info = () if case.reason is None else (error_info(case.reason),)

    async def fail(request: Any, context: Any) -> Any:
        await refuse(context, case.grpc_code, "from the service", *info, *case.details)

    async def fail_stream(request: Any, context: Any) -> Any:
        yield started()
        await fail(request, context)

    service.answer, service.stream = fail, fail_stream
    for stream in (False, True):
        reply = await http.post(CHAT, json=chat(stream=stream), headers={"x-request-id": "my-id"})
        error = reply.json()["error"]

        assert (reply.status_code, error["type"], error["code"]) == (case.http, case.kind, case.code)
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] == case.param
        assert ("from the service" in error["message"]) is (case.reason is not None and case.http != 500)
        assert reply.headers["x-request-id"] == "my-id"
        found = reply.headers.get("retry-after"), reply.headers.get("retry-after-ms")
        assert found == (case.retry or (None, None))
        assert ("my-id" in error["message"]) is (case.http == 500)


async def test_a_failure_after_the_first_token_is_an_event(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    """The stream ends with the error and without [DONE]; earlier output stays."""

    async def fail_late(request: Any, context: Any) -> Any:
        yield started()
        yield delta("Hel")
        await refuse(context, Code.UNAVAILABLE, "draining", error_info("NOT_READY"))

    service.stream = fail_late
    reply = await http.post(CHAT, json=chat(stream=True))
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]

    assert reply.status_code == 200
    assert json.loads(events[1])["choices"][0]["delta"] == {"content": "Hel"}
    assert json.loads(events[-1]) == {
        "error": {"message": "draining", "type": "server_error", "param": None, "code": "not_ready"}
    }
    assert "[DONE]" not in reply.text


async def test_a_stream_with_invalid_events_is_an_internal_error(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    """It is a 500 before the first output, and an event after it."""

    async def nothing(request: Any, context: Any) -> Any:
        yield started()

    async def no_end(request: Any, context: Any) -> Any:
        yield started()
        yield delta("x")

    service.stream = nothing
    reply = await http.post(CHAT, json=chat(stream=True))
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    service.stream = no_end
    reply = await http.post(CHAT, json=chat(stream=True))
    assert reply.status_code == 200
    assert json.loads(reply.text.rpartition("data: ")[2])["error"]["code"] == "internal_error"


@pytest.mark.parametrize("error", [ValueError("secret prompt"), InferenceError("secret"), KeyError("secret")])
def test_an_unexpected_exception_is_answered_with_a_fixed_sentence(error: Exception) -> None:
    """The reply has the request id, but never the text of the exception."""
    answer = error_body(api_error(error, "id-1"))["error"]

    assert answer["code"] == "internal_error"
    assert answer["message"] == "An internal error occurred; it is logged under request id id-1."


def test_a_request_ended_by_a_shutdown_may_be_retried() -> None:
    """An outer cancellation is not the caller's error."""
    assert api_error(asyncio.CancelledError(), "id").status == 503


def test_a_message_is_at_most_a_kilobyte() -> None:
    """A longer text of the service is cut between characters."""
    body = error_body(ApiError(errors.INVALID_VALUE, "é" * 5000))

    assert len(body["error"]["message"].encode()) == 1000


def test_a_missing_key_says_how_to_send_one() -> None:
    """HTTP demands a challenge with every 401."""
    reply = error_response(ApiError(errors.INVALID_API_KEY, "no"))

    assert reply.headers["www-authenticate"] == "Bearer"


def test_a_path_with_a_name_in_brackets_is_unchanged() -> None:
    """Such a path once caused an endless loop."""
    text = 'cannot be enforced (at `$.properties["é"].pattern`)'

    assert in_rest_names(text) == text.replace("`", "")


def test_the_path_of_a_schema_s_keyword_has_rest_s_name_before_it() -> None:
    assert rest_name("chat.tools[2].parameters.properties.a.format") == (
        "tools[2].function.parameters.properties.a.format"
    )
