"""The errors of a call. The table in `status.py` makes them from gRPC statuses.

InferenceError
├── InvalidRequestError        one or more parameters are wrong
│   └── ContextLengthError     prompt and output do not fit the model's context
├── RequestTooLargeError       the request message is over the size limit
├── AuthenticationError        no API key, or one that is unknown, revoked or expired
├── PermissionDeniedError      the key may not do this, or not with this model
├── NotFoundError              no such model
├── RateLimitError             the key used up a quota; see `retry_after`
├── QueueFullError             too many requests wait already; see `retry_after`
├── UnavailableError           the service is not reachable, starts, drains, or ended during an answer
│   └── CancelledByServerError the service, or a proxy, cancelled the call
├── DeadlineError              the timeout passed
├── ReaderStalledError         the caller did not read its stream for too long
├── InternalError              the service failed; its log has the request id
├── ProtocolError              the service sent messages that its protocol does not allow
└── ClosedError                the caller closed the client or the stream of the call

The client raises no `grpc.RpcError`; that of a failed call is the error's `__cause__`.
`asyncio.CancelledError` is not converted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


class InferenceError(Exception):
    """Any failure of a call. The message repeats no text of the request."""

    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        """The reason in lower case, such as `queue_full`; it does not change between versions."""
        self.request_id = request_id
        """The request id in the log of the service, if there is one."""
        self.retry_after = retry_after
        """Seconds after which another attempt makes sense, if the service reports it."""
        self.rate_limits: Mapping[str, str] = {}
        """The `x-ratelimit-` metadata of the reply: limit, remaining and reset of the key's quotas."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request."""

    field: str
    """Its path in the protocol: `stopping.max_tokens`, `chat.messages[2].role`; empty: the whole request."""
    description: str
    """The error with the accepted range: the rest of a sentence that begins with the field. Names of
    other fields and of values stand between backticks."""
    reason: str
    """`invalid_value`, `missing_required_parameter` or `unsupported_parameter`."""


class InvalidRequestError(InferenceError):
    """Expected: one or more parameters are wrong. Another attempt fails in the same way."""

    default_code = "invalid_value"
    violations: tuple[FieldViolation, ...] = ()

    @property
    def param(self) -> str | None:
        """The path of the first wrong field; None if the service named none."""
        return self.violations[0].field or None if self.violations else None


class ContextLengthError(InvalidRequestError):
    """Expected: prompt and answer together are longer than the context length of the model."""

    default_code = "context_length_exceeded"
    prompt_tokens: int | None = None
    """Tokens of the prompt; None if the service reported no number."""
    max_tokens: int | None = None
    """The `max_tokens` of the request; None if the service reported no number."""
    context_length: int | None = None
    """The context length of the model; None if the service reported no number."""


class RequestTooLargeError(InferenceError):
    """Expected: the request message is over the size limit, of the client or of the service."""

    default_code = "request_too_large"
    size: int | None = None
    """Size of the message in bytes."""
    limit: int | None = None
    """The limit in bytes."""


class AuthenticationError(InferenceError):
    """Expected: no API key, or one that is unknown, revoked or expired."""

    default_code = "invalid_api_key"


class PermissionDeniedError(InferenceError):
    """Expected: the key's level does not allow this call."""

    default_code = "insufficient_scope"


class NotFoundError(InferenceError):
    """Expected: no such model."""

    default_code = "model_not_found"
    served: tuple[str, ...] = ()
    """The names of the served models."""


class RateLimitError(InferenceError):
    """Expected: the key used up a quota, which the message names. The client does not retry; see
    `retry_after`.
    """

    default_code = "rate_limit_exceeded"
    limit: int | None = None
    """The quota: requests or tokens a minute, or generations at once."""


class QueueFullError(InferenceError):
    """Expected: too many requests wait. The client does not retry; see `retry_after`."""

    default_code = "queue_full"


class UnavailableError(InferenceError):
    """Expected: the service is not reachable, starts or drains, or ended during an answer.

    The client has already made the configured retries, unless there was output before.
    """

    default_code = "not_ready"


class DeadlineError(InferenceError):
    """Expected: the timeout passed before there was any output."""

    default_code = "deadline_exceeded"


class ReaderStalledError(InferenceError):
    """Expected: the caller did not read its stream for so long that the service ended it."""

    default_code = "reader_stalled"


class CancelledByServerError(UnavailableError):
    """Unexpected: the service, or a proxy, cancelled the call. The client retries it like
    `UnavailableError`.
    """

    default_code = "cancelled"


class InternalError(InferenceError):
    """Unexpected: the service failed."""

    default_code = "internal_error"


class ProtocolError(InferenceError):
    """Unexpected: the service sent messages that its protocol does not allow, or an incomplete answer."""

    default_code = "protocol_error"


class ClosedError(InferenceError):
    """Expected: the caller closed the client or the stream before or during the call."""

    default_code = "closed"
