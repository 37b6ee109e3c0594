"""Maps every error to an HTTP status, a type, a code and a body, in which parameters have their REST names.

The client raises typed errors for refusals of the service; the bridge makes its own refusals here. Both are
sent as an `ApiError`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from starlette.responses import Response

from inference_client import errors as client

MAX_MESSAGE_BYTES = 1000
_NO_NAMES: Mapping[str, str] = {}

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """The response to one kind of error."""

    status: int
    """HTTP status."""
    type: str
    code: str


_INVALID = "invalid_request_error"

INVALID_VALUE = Row(400, _INVALID, "invalid_value")
CONTEXT_LENGTH_EXCEEDED = Row(400, _INVALID, "context_length_exceeded")
REQUEST_TOO_LARGE = Row(413, _INVALID, "request_too_large")
UNSUPPORTED_CODING = Row(415, _INVALID, "unsupported_content_encoding")
REQUEST_TIMEOUT = Row(408, "timeout_error", "request_timeout")
INVALID_API_KEY = Row(401, "authentication_error", "invalid_api_key")
INSUFFICIENT_SCOPE = Row(403, "permission_error", "insufficient_scope")
HOST_NOT_ALLOWED = Row(403, "permission_error", "host_not_allowed")
ORIGIN_NOT_ALLOWED = Row(403, "permission_error", "origin_not_allowed")
NOT_FOUND = Row(404, _INVALID, "model_not_found")
ROUTE_NOT_FOUND = Row(404, _INVALID, "route_not_found")
METHOD_NOT_ALLOWED = Row(405, _INVALID, "method_not_allowed")
RATE_LIMIT_EXCEEDED = Row(429, "rate_limit_error", "rate_limit_exceeded")
QUEUE_FULL = Row(429, "overloaded_error", "queue_full")
NOT_READY = Row(503, "server_error", "not_ready")
DEADLINE_EXCEEDED = Row(504, "timeout_error", "deadline_exceeded")
READER_STALLED = Row(504, "timeout_error", "reader_stalled")
INTERNAL_ERROR = Row(500, "server_error", "internal_error")

TABLE: Mapping[type[client.InferenceError], Row] = {
    client.InvalidRequestError: INVALID_VALUE,
    client.ContextLengthError: CONTEXT_LENGTH_EXCEEDED,
    client.RequestTooLargeError: REQUEST_TOO_LARGE,
    client.AuthenticationError: INVALID_API_KEY,
    client.PermissionDeniedError: INSUFFICIENT_SCOPE,
    client.NotFoundError: NOT_FOUND,
    client.RateLimitError: RATE_LIMIT_EXCEEDED,
    client.QueueFullError: QUEUE_FULL,
    client.UnavailableError: NOT_READY,
    client.CancelledByServerError: NOT_READY,
    client.ClosedError: NOT_READY,
    client.DeadlineError: DEADLINE_EXCEEDED,
    client.ReaderStalledError: READER_STALLED,
    client.InternalError: INTERNAL_ERROR,
}


class ApiError(Exception):
    """Expected: a request that ends with an error body. The message never repeats the caller's input."""

    def __init__(
        self,
        row: Row,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.row = row
        self.message = message
        self.param = param
        """The REST name of the wrong parameter; None: no single one is wrong."""
        self.code = code or row.code
        self.retry_after = retry_after
        """Seconds until a retry makes sense."""
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        return self.row.status


class ClientGone(Exception):
    """Expected: the caller closed the connection before the response was complete."""


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """Make the error for one wrong parameter."""
    return ApiError(INVALID_VALUE, message, param=param, code=code)


def unsupported(param: str, message: str) -> ApiError:
    """Make the error for a parameter that is not supported."""
    return invalid(param, message, "unsupported_parameter")


def too_large(limit: int) -> ApiError:
    """Make the error for a body over `limit` bytes."""
    return ApiError(REQUEST_TOO_LARGE, f"The request body is larger than the limit of {limit} bytes.")


def unsupported_coding() -> ApiError:
    """Make the error for a body in an unsupported coding."""
    return ApiError(
        UNSUPPORTED_CODING,
        "The request's content-encoding must be gzip or zstd.",
        param="content-encoding",
        headers={"accept-encoding": "gzip, zstd"},
    )


def api_error(error: BaseException, request_id: str, names: Mapping[str, str] = _NO_NAMES) -> ApiError:
    """Turn an exception that ended a request into the error for its caller; log an unexpected one.

    Args:
        error: of the bridge, of the service, or unexpected.
        request_id: of the request, for the log and the message.
        names: the request's own names of protocol fields, by path.

    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return ApiError(NOT_READY, "The server is shutting down.")
    if isinstance(error, client.InferenceError) and _row_of(type(error)) is not INTERNAL_ERROR:
        return _from_client(error, names)
    _log.error("request_failed", request_id=request_id, exc_info=error)
    return ApiError(
        INTERNAL_ERROR, f"An internal error occurred; it is logged under request id {request_id}."
    )


def _from_client(error: client.InferenceError, names: Mapping[str, str]) -> ApiError:
    row = _row_of(type(error))
    code = row.code if row is NOT_READY else error.code
    message, param = error.message, None
    if isinstance(error, client.InvalidRequestError) and error.violations:
        param = rest_name(error.violations[0].field, names) or None
        if not isinstance(error, client.ContextLengthError):
            message = " ".join(_sentence(violation, names) for violation in error.violations)
    return ApiError(row, message, param=param, code=code, retry_after=error.retry_after)


def _sentence(violation: client.FieldViolation, names: Mapping[str, str]) -> str:
    subject = rest_name(violation.field, names) or "The request"
    return f"{subject} {in_rest_names(violation.description, names)}"


def _row_of(kind: type[client.InferenceError]) -> Row:
    return next((TABLE[base] for base in kind.__mro__ if base in TABLE), INTERNAL_ERROR)


def error_body(error: ApiError) -> dict[str, Any]:
    """The body of an error response, and the data of the event that ends a failed stream."""
    return {
        "error": {
            "message": _shorten(error.message),
            "type": error.row.type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_response(error: ApiError) -> Response:
    """The response with an error's status, headers and body."""
    headers = dict(error.headers)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status in (429, 503):
        headers.update(_retry_headers(1.0 if error.retry_after is None else error.retry_after))
    content = orjson.dumps(error_body(error))
    return Response(content, error.status, headers, media_type="application/json")


def _retry_headers(seconds: float) -> dict[str, str]:
    # `Retry-After` has whole seconds only; the official SDKs read the milliseconds first.
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}


def _shorten(message: str) -> str:
    return message.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")


_INDEX = re.compile(r"\[\d+]")
_QUOTED = re.compile(r"`([^`]*)`")
_GROUPS = re.compile(r"^(?:chat|sampling|stopping|output)\.")
"""Fields of these groups have the same name in REST, without the group's."""

_FIELDS: Mapping[str, str] = {
    "input": "messages",
    "chat.messages[].tool_calls[].name": "messages[].tool_calls[].function.name",
    "chat.messages[].tool_calls[].arguments": "messages[].tool_calls[].function.arguments",
    "chat.tool_choice.mode": "tool_choice",
    "chat.tool_choice.name": "tool_choice.function.name",
    "chat.tools[].name": "tools[].function.name",
    "chat.tools[].description": "tools[].function.description",
    "chat.tools[].parameters": "tools[].function.parameters",
    "chat.tools[].strict": "tools[].function.strict",
    "token_ids": "prompt",
    "token_ids.ids": "prompt",
    "token_ids.ids[]": "prompt[]",
    "batch": "prompt",
    "batch.prompts": "prompt",
    "batch.prompts[]": "prompt[]",
    "batch.prompts[].text": "prompt[]",
    "batch.prompts[].token_ids": "prompt[]",
    "batch.prompts[].token_ids.ids": "prompt[]",
    "batch.prompts[].token_ids.ids[]": "prompt[][]",
    "stopping.include_stop": "include_stop_str_in_output",
    "constraint": "response_format",
    "constraint.kind": "response_format.type",
    "constraint.json_object": "response_format",
    "constraint.json_schema": "response_format.json_schema.schema",
    "constraint.regex": "guided_regex",
    "constraint.grammar": "guided_grammar",
    "constraint.whitespace": "whitespace",
    "ROLE_SYSTEM": "system",
    "ROLE_USER": "user",
    "ROLE_ASSISTANT": "assistant",
    "ROLE_TOOL": "tool",
    "TOOL_CHOICE_MODE_AUTO": "auto",
    "TOOL_CHOICE_MODE_NONE": "none",
    "TOOL_CHOICE_MODE_REQUIRED": "required",
    "TOOL_CHOICE_MODE_NAMED": "a named tool",
    "WHITESPACE_COMPACT": "compact",
    "WHITESPACE_FLEXIBLE": "flexible",
}
"""Path of a field, without its indexes, or value of an enum → its REST name. Others have the same name."""


def rest_name(path: str, own: Mapping[str, str] = _NO_NAMES) -> str:
    """The REST name of a protocol field: `stopping.max_tokens` is `max_tokens`. Indexes are kept.

    Args:
        path: of the field, or a value of an enum.
        own: the names that one request has for fields, by path; other fields have their usual names.

    """
    known, rest = _split(_INDEX.sub("[]", path), own)
    indexes = iter(_INDEX.findall(path))
    return re.sub(r"\[]", lambda _: next(indexes, "[]"), known + rest)


def in_rest_names(text: str, own: Mapping[str, str] = _NO_NAMES) -> str:
    """A text of the service with REST names in the place of the protocol's, which stand in backticks."""
    return _QUOTED.sub(lambda found: rest_name(found[1], own), text)


def _split(path: str, own: Mapping[str, str]) -> tuple[str, str]:
    """The REST name of the longest prefix of a path that has one, and the rest of the path."""
    prefix = path
    while prefix:
        if name := own.get(prefix) or _FIELDS.get(prefix):
            return name, path[len(prefix) :]
        shorter = re.sub(r"(?:(?:^|\.)[^.\[\]]*|\[])$", "", prefix)
        if shorter == prefix:
            # The brackets hold a name that the caller chose, so no prefix is a field of the protocol.
            break
        prefix = shorter
    return _GROUPS.sub("", path, count=1), ""
