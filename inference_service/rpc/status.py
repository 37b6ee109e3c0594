"""The table of statuses: service error → gRPC status with google.rpc details (AIP-193)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb
from google.rpc import status_pb2
from grpc_status import rpc_status

from inference_service import errors

DOMAIN = "lodestream.inference.v1"
MAX_TEXT_BYTES = 1000
"""Most bytes of a message, and of each value in ErrorInfo.metadata: peers refuse trailers over 8 KiB."""


@dataclass(frozen=True, slots=True)
class Row:
    """The status of one class of errors."""

    code: grpc.StatusCode
    reason: str
    """ErrorInfo.reason."""
    details: Callable[[Any], list[Message]] = lambda _: []
    """Further google.rpc details."""
    metadata: tuple[str, ...] = ()
    """Attributes of the error that go into ErrorInfo.metadata."""


def _bad_request(error: errors.InvalidRequest) -> list[Message]:
    violations = [
        details_pb.BadRequest.FieldViolation(field=v.field, description=v.description, reason=v.code.upper())
        for v in error.violations
    ]
    return [details_pb.BadRequest(field_violations=violations)]


def _too_long(error: errors.ContextLengthExceeded) -> list[Message]:
    violation = details_pb.BadRequest.FieldViolation(
        field=error.field, description=str(error), reason="CONTEXT_LENGTH_EXCEEDED"
    )
    return [details_pb.BadRequest(field_violations=[violation])]


def _retry(error: errors.ServiceError) -> list[Message]:
    delay = Duration()
    delay.FromMilliseconds(math.ceil((error.retry_after or 0) * 1000))
    return [details_pb.RetryInfo(retry_delay=delay)]


def _quota(error: errors.RateLimited) -> list[Message]:
    violation = details_pb.QuotaFailure.Violation(subject="api_key", description=str(error))
    return [details_pb.QuotaFailure(violations=[violation]), *_retry(error)]


_Code = grpc.StatusCode

TABLE: Mapping[type[errors.ServiceError], Row] = {
    errors.InvalidRequest: Row(_Code.INVALID_ARGUMENT, "INVALID_VALUE", _bad_request),
    errors.ContextLengthExceeded: Row(
        _Code.INVALID_ARGUMENT,
        "CONTEXT_LENGTH_EXCEEDED",
        _too_long,
        ("prompt_tokens", "max_tokens", "context_length"),
    ),
    errors.RequestTooLarge: Row(_Code.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", metadata=("size", "limit")),
    errors.Unauthenticated: Row(_Code.UNAUTHENTICATED, "INVALID_API_KEY"),
    errors.PermissionDenied: Row(_Code.PERMISSION_DENIED, "INSUFFICIENT_SCOPE"),
    errors.ModelNotFound: Row(_Code.NOT_FOUND, "MODEL_NOT_FOUND", metadata=("served",)),
    errors.ReceiptNotFound: Row(_Code.NOT_FOUND, "RECEIPT_NOT_FOUND"),
    errors.RateLimited: Row(_Code.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED", _quota, ("limit",)),
    errors.QueueFull: Row(_Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", _retry),
    errors.ReaderStalled: Row(_Code.RESOURCE_EXHAUSTED, "READER_STALLED"),
    errors.Aborted: Row(_Code.CANCELLED, "ABORTED"),
    errors.NotReady: Row(_Code.UNAVAILABLE, "NOT_READY", _retry),
    errors.DeadlineBeforeFirstToken: Row(_Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    errors.RequestTimeout: Row(_Code.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT"),
    errors.UnknownMethod: Row(_Code.UNIMPLEMENTED, "ROUTE_NOT_FOUND"),
}

INTERNAL = Row(_Code.INTERNAL, "INTERNAL_ERROR")


def reason_of(error: errors.ServiceError) -> str:
    """The ErrorInfo.reason of an error: that of its row, or that of its first violation."""
    if isinstance(error, errors.InvalidRequest):
        return error.violations[0].code.upper()
    return TABLE[type(error)].reason


def status_of(error: errors.ServiceError) -> grpc.Status:
    """The status of an expected error."""
    row = TABLE[type(error)]
    metadata = {name: _fit(_text(getattr(error, name))) for name in row.metadata}
    return _status(row, reason_of(error), str(error), metadata, row.details(error))


def internal_status(request_id: str) -> grpc.Status:
    """The status of every unexpected error: a fixed sentence with the id to look for in the log."""
    sentence = f"An internal error occurred; it is logged under request id {request_id}."
    return _status(INTERNAL, INTERNAL.reason, sentence, {"request_id": request_id}, [])


def _status(
    row: Row, reason: str, message: str, metadata: Mapping[str, str], details: list[Message]
) -> grpc.Status:
    status = status_pb2.Status(code=row.code.value[0], message=_fit(message))
    info = details_pb.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    for detail in [info, *details]:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return rpc_status.to_status(status)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _fit(text: str) -> str:
    return text.encode()[:MAX_TEXT_BYTES].decode("utf-8", "ignore")
