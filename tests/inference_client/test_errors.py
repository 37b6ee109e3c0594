"""Every row of the error table, from a real status, on both clients and for both kinds of calls."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode

from inference_client import (
    AuthenticationError,
    CancelledByServerError,
    ContextLengthError,
    DeadlineError,
    FieldViolation,
    InferenceError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QueueFullError,
    RateLimitError,
    ReaderStalledError,
    RequestTooLargeError,
    UnavailableError,
)
from inference_client.status import _BY_REASON, _BY_STATUS
from tests.inference_client.conftest import Caller, CallerFactory
from tests.support.scripted import Event, Response, Running, ScriptedService, error_info, refuse, retry_info

REASONS: list[tuple[str, StatusCode, type[InferenceError]]] = [
    ("INVALID_VALUE", StatusCode.INVALID_ARGUMENT, InvalidRequestError),
    ("MISSING_REQUIRED_PARAMETER", StatusCode.INVALID_ARGUMENT, InvalidRequestError),
    ("UNSUPPORTED_PARAMETER", StatusCode.INVALID_ARGUMENT, InvalidRequestError),
    ("CONTEXT_LENGTH_EXCEEDED", StatusCode.INVALID_ARGUMENT, ContextLengthError),
    ("REQUEST_TOO_LARGE", StatusCode.RESOURCE_EXHAUSTED, RequestTooLargeError),
    ("INVALID_API_KEY", StatusCode.UNAUTHENTICATED, AuthenticationError),
    ("INSUFFICIENT_SCOPE", StatusCode.PERMISSION_DENIED, PermissionDeniedError),
    ("MODEL_NOT_FOUND", StatusCode.NOT_FOUND, NotFoundError),
    ("RECEIPT_NOT_FOUND", StatusCode.NOT_FOUND, NotFoundError),
    ("RATE_LIMIT_EXCEEDED", StatusCode.RESOURCE_EXHAUSTED, RateLimitError),
    ("QUEUE_FULL", StatusCode.RESOURCE_EXHAUSTED, QueueFullError),
    ("READER_STALLED", StatusCode.RESOURCE_EXHAUSTED, ReaderStalledError),
    ("ABORTED", StatusCode.CANCELLED, CancelledByServerError),
    ("NOT_READY", StatusCode.UNAVAILABLE, UnavailableError),
    ("DEADLINE_EXCEEDED", StatusCode.DEADLINE_EXCEEDED, DeadlineError),
    ("INTERNAL_ERROR", StatusCode.INTERNAL, InternalError),
    # A reason that is newer than the client is classified by its status code.
    ("CONTENT_REFUSED", StatusCode.INVALID_ARGUMENT, InvalidRequestError),
]

STATUSES: list[tuple[StatusCode, type[InferenceError], str]] = [
    (StatusCode.INVALID_ARGUMENT, InvalidRequestError, "invalid_value"),
    (StatusCode.UNAUTHENTICATED, AuthenticationError, "invalid_api_key"),
    (StatusCode.PERMISSION_DENIED, PermissionDeniedError, "insufficient_scope"),
    (StatusCode.NOT_FOUND, NotFoundError, "model_not_found"),
    (StatusCode.RESOURCE_EXHAUSTED, QueueFullError, "queue_full"),
    (StatusCode.UNAVAILABLE, UnavailableError, "not_ready"),
    (StatusCode.DEADLINE_EXCEEDED, DeadlineError, "deadline_exceeded"),
    (StatusCode.CANCELLED, CancelledByServerError, "cancelled"),
    (StatusCode.UNIMPLEMENTED, InternalError, "internal_error"),
    (StatusCode.INTERNAL, InternalError, "internal_error"),
    (StatusCode.UNKNOWN, InternalError, "internal_error"),
    (StatusCode.ABORTED, InternalError, "internal_error"),
]


def test_every_row_of_the_table_is_tested() -> None:
    assert {reason for reason, _, _ in REASONS} >= set(_BY_REASON)
    assert {status for status, _, _ in STATUSES} >= set(_BY_STATUS)


def refusing(service: ScriptedService, code: StatusCode, message: str, *details: Any) -> None:
    async def answer(request: Any, context: Any) -> Response:
        await refuse(context, code, message, *details)
        raise AssertionError("unreachable")

    async def stream(request: Any, context: Any) -> AsyncIterator[Event]:
        await refuse(context, code, message, *details)
        yield Event()

    service.answer, service.stream = answer, stream


async def fail(caller: Caller, **kwargs: Any) -> tuple[InferenceError, InferenceError]:
    """The exceptions of `generate` and `stream`, which must not be gRPC's own."""
    with pytest.raises(InferenceError) as unary:
        await caller.call("generate", model="m", prompt="p", **kwargs)
    with pytest.raises(InferenceError) as streamed:
        await caller.events(model="m", prompt="p", **kwargs)
    return unary.value, streamed.value


@pytest.mark.parametrize(("reason", "status", "kind"), REASONS)
async def test_the_reason_decides_the_exception(
    make_caller: CallerFactory, running: Running, reason: str, status: StatusCode, kind: type[InferenceError]
) -> None:
    refusing(running.service, status, "What went wrong.", error_info(reason))

    for error in await fail(make_caller(running.target, retries=0), request_id="r1"):
        assert type(error) is kind
        assert (error.code, str(error), error.request_id) == (reason.lower(), "What went wrong.", "r1")


@pytest.mark.parametrize(("status", "kind", "code"), STATUSES)
async def test_without_a_reason_the_status_code_decides(
    make_caller: CallerFactory, running: Running, status: StatusCode, kind: type[InferenceError], code: str
) -> None:
    """Such a status is not from the service; its text is only in the cause."""
    refusing(running.service, status, "ipv4:10.0.0.1:50051 secret")

    for error in await fail(make_caller(running.target, retries=0)):
        assert (type(error), error.code) == (kind, code)
        assert "10.0.0.1" not in str(error)
        assert isinstance(error.__cause__, grpc.RpcError)


async def test_the_reason_of_another_domain_is_ignored(caller: Caller, service: ScriptedService) -> None:
    foreign = error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="example.com")
    refusing(service, StatusCode.PERMISSION_DENIED, "no", foreign)

    for error in await fail(caller):
        assert type(error) is PermissionDeniedError


async def test_every_violation_is_listed(caller: Caller, service: ScriptedService) -> None:
    violations = [
        error_details_pb2.BadRequest.FieldViolation(
            field="top_p", description="0 to 1", reason="INVALID_VALUE"
        ),
        error_details_pb2.BadRequest.FieldViolation(
            field="model", description="is required", reason="MISSING_REQUIRED_PARAMETER"
        ),
    ]
    refusing(
        service,
        StatusCode.INVALID_ARGUMENT,
        "Two are wrong.",
        error_info("INVALID_VALUE"),
        error_details_pb2.BadRequest(field_violations=violations),
    )

    for error in await fail(caller):
        assert isinstance(error, InvalidRequestError)
        assert error.param == "top_p"
        assert error.violations == (
            FieldViolation("top_p", "0 to 1", "invalid_value"),
            FieldViolation("model", "is required", "missing_required_parameter"),
        )


async def test_the_numbers_of_a_prompt_that_does_not_fit_are_reported(
    caller: Caller, service: ScriptedService
) -> None:
    info = error_info("CONTEXT_LENGTH_EXCEEDED", prompt_tokens="90", max_tokens="20", context_length="100")
    refusing(service, StatusCode.INVALID_ARGUMENT, "Too long.", info)

    for error in await fail(caller):
        assert isinstance(error, ContextLengthError)
        assert isinstance(error, InvalidRequestError)
        assert (error.prompt_tokens, error.max_tokens, error.context_length) == (90, 20, 100)


async def test_an_invalid_number_in_the_metadata_is_none(caller: Caller, service: ScriptedService) -> None:
    refusing(
        service, StatusCode.INVALID_ARGUMENT, "x", error_info("CONTEXT_LENGTH_EXCEEDED", max_tokens="many")
    )

    for error in await fail(caller):
        assert isinstance(error, ContextLengthError)
        assert (error.prompt_tokens, error.max_tokens) == (None, None)


async def test_errors_of_load_have_the_retry_time(caller: Caller, service: ScriptedService) -> None:
    """They are not retried, since a retry would add load."""
    for reason in ("RATE_LIMIT_EXCEEDED", "QUEUE_FULL"):
        service.seen.clear()
        details = (error_info(reason, limit="100"), retry_info(1.5))
        refusing(service, StatusCode.RESOURCE_EXHAUSTED, "Later.", *details)

        for error in await fail(caller):
            assert error.retry_after == 1.5
            if isinstance(error, RateLimitError):
                assert error.limit == 100
        assert len(service.seen) == 2


async def test_the_error_for_an_unknown_model_has_the_served_models(caller: Caller) -> None:
    with pytest.raises(NotFoundError) as caught:
        await caller.call("get_model", "nobody")

    assert caught.value.served == ("m", "other")


async def test_the_request_id_of_the_reply_is_used(caller: Caller, service: ScriptedService) -> None:
    """The service replaces invalid ids, and sends the id in the metadata."""

    async def answer(request: Any, context: Any) -> Response:
        await context.send_initial_metadata((("x-request-id", "theirs"),))
        await refuse(context, StatusCode.INTERNAL, "Logged.", error_info("INTERNAL_ERROR"))
        return Response()

    service.answer = answer
    with pytest.raises(InternalError) as caught:
        await caller.call("generate", model="m", prompt="p", request_id="ours")

    assert caught.value.request_id == "theirs"


async def test_an_exception_of_the_server_does_not_leak(caller: Caller, service: ScriptedService) -> None:
    async def answer(request: Any, context: Any) -> Response:
        raise KeyError("secret")

    service.answer = answer
    with pytest.raises(InternalError) as caught:
        await caller.call("generate", model="m", prompt="p")

    assert "secret" not in str(caught.value)


async def test_invalid_details_are_ignored(caller: Caller, service: ScriptedService) -> None:
    async def answer(request: Any, context: Any) -> Response:
        garbage = (("grpc-status-details-bin", b"\xff\xff\xff"),)
        await context.abort(StatusCode.NOT_FOUND, "x", garbage)
        return Response()

    service.answer = answer
    with pytest.raises(NotFoundError):
        await caller.call("generate", model="m", prompt="p")


@pytest.mark.parametrize("key", ["pg_é", "pg_\n"])
async def test_a_key_that_is_no_valid_header_is_refused(
    make_caller: CallerFactory, running: Running, key: str
) -> None:
    for error in await fail(make_caller(running.target, api_key=key)):
        assert type(error) is AuthenticationError
        assert key not in str(error)
    assert running.service.seen == []


async def test_a_request_over_the_limit_is_not_sent(make_caller: CallerFactory, running: Running) -> None:
    caller = make_caller(running.target, max_message_bytes=1000)
    with pytest.raises(RequestTooLargeError) as unary:
        await caller.call("generate", model="m", prompt="x" * 995, request_id="r1")
    with pytest.raises(RequestTooLargeError) as streamed:
        await caller.events(model="m", prompt="x" * 995, request_id="r1")

    for caught in (unary, streamed):
        assert (caught.value.size, caught.value.limit, caught.value.request_id) == (1001, 1000, "r1")
        assert str(caught.value) == "The request is 1001 bytes; the limit is 1000 bytes."
    assert running.service.seen == []


async def test_a_request_at_the_limit_is_sent(make_caller: CallerFactory, running: Running) -> None:
    await make_caller(running.target, max_message_bytes=1000).call("generate", model="m", prompt="x" * 994)

    assert running.service.seen[0].request.ByteSize() == 1000


async def test_the_servers_limit_is_reported_in_the_same_way(
    make_caller: CallerFactory, service: ScriptedService
) -> None:
    from tests.support.scripted import serve

    async with serve(service, options=[("grpc.max_receive_message_length", 1000)]) as small:
        for error in await fail(make_caller(small.target), user="x" * 2000):
            assert isinstance(error, RequestTooLargeError)
            assert error.size is not None
            assert (error.limit, error.size > 2000) == (1000, True)


async def test_an_answer_over_the_servers_limit_is_an_internal_error(
    make_caller: CallerFactory, service: ScriptedService
) -> None:
    from tests.support.scripted import answering, serve, whole_answer

    service.answer = answering(whole_answer("x" * 2000))
    async with serve(service, options=[("grpc.max_send_message_length", 1000)]) as small:
        with pytest.raises(InternalError) as caught:
            await make_caller(small.target).call("generate", model="m", prompt="p")

    assert caught.value.code == "response_too_large"


async def test_an_answer_may_be_larger_than_a_request(make_caller: CallerFactory, running: Running) -> None:
    from tests.support.scripted import answering, whole_answer

    running.service.answer = answering(whole_answer("x" * 5_000_000))
    answer = await make_caller(running.target, max_message_bytes=1000).call("generate", model="m", prompt="p")

    assert len(answer.text) == 5_000_000


async def test_many_violations_fit_into_the_metadata(caller: Caller, service: ScriptedService) -> None:
    """An error that names hundreds of fields exceeds gRPC's default limit of metadata."""
    violation = error_details_pb2.BadRequest.FieldViolation(field="messages[0].role", description="x" * 100)
    bad_request = error_details_pb2.BadRequest(field_violations=[violation] * 250)
    refusing(service, StatusCode.INVALID_ARGUMENT, "x", error_info("INVALID_VALUE"), bad_request)

    for error in await fail(caller):
        assert isinstance(error, InvalidRequestError)
        assert len(error.violations) == 250


def test_errors_survive_pickling() -> None:
    """Worker processes may pass them on."""
    error = QueueFullError("Full.", request_id="r1", retry_after=2.0)
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), vars(copy)) == (QueueFullError, "Full.", vars(error))


async def test_an_address_without_a_server_is_unavailable(make_caller: CallerFactory) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()

    for error in await fail(make_caller("127.0.0.1:1")):
        assert (type(error), error.code) == (UnavailableError, "not_ready")
    assert loop.time() - began < 10
