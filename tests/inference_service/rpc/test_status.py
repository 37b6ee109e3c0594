"""The error table: every error class has a row, and every row can be decoded."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from inference_service import errors
from inference_service.errors import ServiceError, Violation
from inference_service.request.generate import parse_generate
from inference_service.rpc import status
from tests.support.statuses import ReceivedStatus, read_status

Code = grpc.StatusCode

SAMPLES: dict[type[ServiceError], tuple[ServiceError, Code, str]] = {
    type(error): (error, code, reason)
    for error, code, reason in [
        (
            errors.InvalidRequest.of("model", "is required.", "missing_required_parameter"),
            Code.INVALID_ARGUMENT,
            "MISSING_REQUIRED_PARAMETER",
        ),
        (
            errors.ContextLengthExceeded(90, 20, 100, "chat.messages"),
            Code.INVALID_ARGUMENT,
            "CONTEXT_LENGTH_EXCEEDED",
        ),
        (errors.RequestTooLarge(11, 10), Code.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE"),
        (errors.Unauthenticated("no key"), Code.UNAUTHENTICATED, "INVALID_API_KEY"),
        (errors.PermissionDenied("read-only"), Code.PERMISSION_DENIED, "INSUFFICIENT_SCOPE"),
        (errors.ModelNotFound(["a", "b"]), Code.NOT_FOUND, "MODEL_NOT_FOUND"),
        (errors.ReceiptNotFound(), Code.NOT_FOUND, "RECEIPT_NOT_FOUND"),
        (errors.RateLimited(100, 1.5), Code.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED"),
        (errors.QueueFull(3, 0.25), Code.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        (errors.ReaderStalled(30), Code.RESOURCE_EXHAUSTED, "READER_STALLED"),
        (errors.Aborted(), Code.CANCELLED, "ABORTED"),
        (errors.NotReady("it is starting"), Code.UNAVAILABLE, "NOT_READY"),
        (errors.DeadlineBeforeFirstToken(), Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (errors.RequestTimeout(20), Code.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT"),
        (errors.UnknownMethod(), Code.UNIMPLEMENTED, "ROUTE_NOT_FOUND"),
    ]
}


def decoded(error: ServiceError) -> ReceivedStatus:
    return _read(status.status_of(error))


def _read(sent: grpc.Status) -> ReceivedStatus:
    return read_status(sent.code, sent.details, sent.trailing_metadata)


def descendants(parent: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for child in parent.__subclasses__():
        yield child
        yield from descendants(child)


def test_every_error_has_a_row_and_a_sample() -> None:
    known = {error for error in descendants(ServiceError) if error.__module__ == errors.__name__}

    assert set(status.TABLE) == known
    assert set(SAMPLES) == known


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=lambda sample: sample[2])
def test_each_error_has_its_status_and_details(sample: tuple[ServiceError, Code, str]) -> None:
    error, code, reason = sample

    answer = decoded(error)

    assert (answer.code, answer.reason) == (code, reason)
    assert answer.message == str(error)


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        (
            errors.ContextLengthExceeded,
            {"prompt_tokens": "90", "max_tokens": "20", "context_length": "100"},
        ),
        (errors.RequestTooLarge, {"size": "11", "limit": "10"}),
        (errors.ModelNotFound, {"served": "a, b"}),
        (errors.RateLimited, {"limit": "100"}),
        (errors.QueueFull, {}),
    ],
)
def test_numbers_are_in_the_metadata_of_the_error(kind: type[ServiceError], metadata: dict[str, str]) -> None:
    assert dict(decoded(SAMPLES[kind][0]).info.metadata) == metadata


@pytest.mark.parametrize(
    ("kind", "seconds"), [(errors.RateLimited, 1.5), (errors.QueueFull, 0.25), (errors.NotReady, 1.0)]
)
def test_temporary_errors_say_when_to_retry(kind: type[ServiceError], seconds: float) -> None:
    assert decoded(SAMPLES[kind][0]).retry_seconds == seconds


@pytest.mark.parametrize(
    "kind", [kind for kind in SAMPLES if kind not in {errors.RateLimited, errors.QueueFull, errors.NotReady}]
)
def test_permanent_errors_have_no_retry_info(kind: type[ServiceError]) -> None:
    assert decoded(SAMPLES[kind][0]).all_of(details_pb.RetryInfo) == []


def test_the_error_for_a_spent_quota_names_the_key() -> None:
    (failure,) = decoded(errors.RateLimited(100, 1)).all_of(details_pb.QuotaFailure)

    assert [violation.subject for violation in failure.violations] == ["api_key"]


def test_each_violation_has_its_own_reason() -> None:
    wrong = [
        Violation("sampling.top_p", "is 2; it must be in [0, 1]."),
        Violation("model", "is required.", "missing_required_parameter"),
        Violation("chat.messages", "has no template.", "unsupported_parameter"),
    ]

    answer = decoded(errors.InvalidRequest(wrong))

    (bad,) = answer.all_of(details_pb.BadRequest)
    assert [(v.field, v.description, v.reason) for v in bad.field_violations] == [
        ("sampling.top_p", "is 2; it must be in [0, 1].", "INVALID_VALUE"),
        ("model", "is required.", "MISSING_REQUIRED_PARAMETER"),
        ("chat.messages", "has no template.", "UNSUPPORTED_PARAMETER"),
    ]
    assert answer.reason == "INVALID_VALUE"
    assert (
        answer.message
        == "sampling.top_p is 2; it must be in [0, 1]. model is required. chat.messages has no template."
    )


def test_a_prompt_that_does_not_fit_names_its_field() -> None:
    assert decoded(SAMPLES[errors.ContextLengthExceeded][0]).fields == ["chat.messages"]


@pytest.mark.parametrize("char", ["x", "漢"])
def test_a_message_is_at_most_a_kilobyte(char: str) -> None:
    answer = decoded(errors.Unauthenticated(char * 5000))

    assert 990 <= len(answer.message.encode()) <= 1000
    assert set(answer.message) == {char}


def test_a_status_always_fits_into_the_trailers() -> None:
    """Peers refuse metadata over 8 KiB, so long names and many violations are cut."""
    many_names = errors.ModelNotFound([f"模型-{number}" for number in range(1000)])
    messages = [pb.ChatMessage(role=pb.ROLE_UNSPECIFIED)] * 5000
    with pytest.raises(errors.InvalidRequest) as caught:
        parse_generate(generate_pb.GenerateRequest(chat=pb.ChatInput(messages=messages)))

    for error in (many_names, caught.value):
        answer = decoded(error)
        assert 3 * len(answer.message.encode()) + answer.details.ByteSize() < 8000


def test_an_unexpected_error_is_a_fixed_sentence_and_the_request_id() -> None:
    answer = _read(status.internal_status("req-1"))

    assert (answer.code, answer.reason) == (Code.INTERNAL, "INTERNAL_ERROR")
    assert answer.message == "An internal error occurred; it is logged under request id req-1."
    assert dict(answer.info.metadata) == {"request_id": "req-1"}
