"""The table of gRPC statuses to errors: the reason in ErrorInfo decides, and without one the status code.

A status without an ErrorInfo of this service comes from gRPC itself or from a proxy. Its text can name
addresses and internals, so the error has a text of its own, and the status as its cause.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage
from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from inference_client.errors import (
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

ERROR_DOMAIN = "lodestream.inference.v1"
REQUEST_ID_KEY = "x-request-id"
_RATE_LIMIT_PREFIX = "x-ratelimit-"

_BY_REASON: dict[str, type[InferenceError]] = {
    "INVALID_VALUE": InvalidRequestError,
    "MISSING_REQUIRED_PARAMETER": InvalidRequestError,
    "UNSUPPORTED_PARAMETER": InvalidRequestError,
    "CONTEXT_LENGTH_EXCEEDED": ContextLengthError,
    "REQUEST_TOO_LARGE": RequestTooLargeError,
    "INVALID_API_KEY": AuthenticationError,
    "INSUFFICIENT_SCOPE": PermissionDeniedError,
    "MODEL_NOT_FOUND": NotFoundError,
    "RECEIPT_NOT_FOUND": NotFoundError,
    "RATE_LIMIT_EXCEEDED": RateLimitError,
    "QUEUE_FULL": QueueFullError,
    "READER_STALLED": ReaderStalledError,
    "ABORTED": CancelledByServerError,
    "NOT_READY": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "INTERNAL_ERROR": InternalError,
}

# Numbers in the metadata of ErrorInfo, by the error's attribute of the same name.
_NUMBERS: dict[type[InferenceError], tuple[str, ...]] = {
    ContextLengthError: ("prompt_tokens", "max_tokens", "context_length"),
    RequestTooLargeError: ("size", "limit"),
    RateLimitError: ("limit",),
}

_BY_STATUS: dict[StatusCode, tuple[type[InferenceError], str]] = {
    StatusCode.INVALID_ARGUMENT: (InvalidRequestError, "The request was refused as invalid."),
    StatusCode.UNAUTHENTICATED: (AuthenticationError, "The API key was refused."),
    StatusCode.PERMISSION_DENIED: (PermissionDeniedError, "The API key does not allow this call."),
    StatusCode.NOT_FOUND: (NotFoundError, "The requested resource does not exist."),
    StatusCode.RESOURCE_EXHAUSTED: (QueueFullError, "The service cannot take the request now."),
    StatusCode.UNAVAILABLE: (
        UnavailableError,
        "The service is not reachable, or the connection to it broke.",
    ),
    StatusCode.DEADLINE_EXCEEDED: (DeadlineError, "The timeout passed."),
    StatusCode.CANCELLED: (CancelledByServerError, "The call was cancelled by the service."),
    StatusCode.UNIMPLEMENTED: (InternalError, "The service does not know this call."),
}
_OTHER_STATUS = (InternalError, "The service failed.")

# The text of the gRPC core for a message that is over the limit of either side.
_OVERSIZE = re.compile(r"(Sent|Received) message larger than max \((\d+) vs\. (\d+)\)")


@dataclass(frozen=True, slots=True)
class _Details:
    """The google.rpc details of one status."""

    info: Any = None
    """The ErrorInfo of this service, if there is one."""
    violations: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def number(self, name: str) -> int | None:
        text = self.metadata.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else None


def error_from_rpc(error: grpc.RpcError, request_id: str | None) -> InferenceError:
    """Make the error of a failed call.

    Args:
        error: the error of gRPC, from a blocking or an asyncio channel.
        request_id: the id that was sent; the id in the reply, if there is one, replaces it.

    """
    details = _read_details(error)
    result = _from_status(error) if details.info is None else _from_reason(error, details)
    result.request_id = _request_id(error, details) or request_id
    result.retry_after = details.retry_after
    result.rate_limits = rate_limits_of(cast("grpc.Call", error).initial_metadata())
    if isinstance(result, InvalidRequestError):
        result.violations = details.violations
    return result


def _from_reason(error: grpc.RpcError, details: _Details) -> InferenceError:
    reason = details.info.reason
    # For a reason that this client does not know yet, the status code decides.
    kind = _BY_REASON.get(reason) or _BY_STATUS.get(error.code(), _OTHER_STATUS)[0]
    result = kind(error.details() or reason, code=reason.lower())
    for name in _NUMBERS.get(kind, ()):
        setattr(result, name, details.number(name))
    if isinstance(result, NotFoundError):
        served = details.metadata.get("served", "").split(",")
        result.served = tuple(name.strip() for name in served if name.strip())
    return result


def _from_status(error: grpc.RpcError) -> InferenceError:
    oversize = _OVERSIZE.search(error.details() or "")
    if error.code() is StatusCode.RESOURCE_EXHAUSTED and oversize is not None:
        return _oversize(error.details() or "", int(oversize[2]), int(oversize[3]))
    kind, sentence = _BY_STATUS.get(error.code(), _OTHER_STATUS)
    return kind(sentence)


def _oversize(details: str, size: int, limit: int) -> InferenceError:
    if "CLIENT: Received" in details or "SERVER: Sent" in details:
        sentence = f"The answer is {size} bytes; its limit is {limit} bytes."
        return InternalError(sentence, code="response_too_large")
    return request_too_large(size, limit)


def request_too_large(size: int, limit: int) -> RequestTooLargeError:
    """Make the error of a message of `size` bytes that is over the limit of `limit` bytes."""
    result = RequestTooLargeError(f"The request is {size} bytes; the limit is {limit} bytes.")
    result.size = size
    result.limit = limit
    return result


def _read_details(error: grpc.RpcError) -> _Details:
    info = retry_after = None
    violations: tuple[FieldViolation, ...] = ()
    for packed in _rich_status(error):
        message = _unpack(packed)
        if isinstance(message, error_details_pb2.ErrorInfo) and message.domain == ERROR_DOMAIN:
            info = message
        elif isinstance(message, error_details_pb2.BadRequest):
            violations = tuple(
                FieldViolation(item.field, item.description, item.reason.lower())
                for item in message.field_violations
            )
        elif isinstance(message, error_details_pb2.RetryInfo):
            retry_after = max(0.0, message.retry_delay.ToTimedelta().total_seconds())
    metadata = dict(info.metadata) if info is not None else {}
    return _Details(info, violations, retry_after, metadata)


def _rich_status(error: grpc.RpcError) -> list[Any]:
    # `from_call` raises if status and details contradict each other; then the details are ignored.
    with contextlib.suppress(ValueError, DecodeError):
        status = rpc_status.from_call(cast("grpc.Call", error))
        return list(status.details) if status is not None else []
    return []


def _unpack(packed: Any) -> ProtoMessage | None:
    for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            with contextlib.suppress(DecodeError):
                packed.Unpack(message)
                return cast("ProtoMessage", message)
    return None


def rate_limits_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """The quotas of the caller's key by a reply's metadata."""
    return {key: str(value) for key, value in metadata or () if key.startswith(_RATE_LIMIT_PREFIX)}


def _request_id(error: grpc.RpcError, details: _Details) -> str | None:
    call = cast("grpc.Call", error)
    for key, value in (*(call.initial_metadata() or ()), *(call.trailing_metadata() or ())):
        if key == REQUEST_ID_KEY:
            return str(value)
    return details.metadata.get("request_id")
