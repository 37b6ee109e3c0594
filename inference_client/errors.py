"""What a call can raise. `status.py` is the one table that turns gRPC statuses into these.

InferenceError
├── InvalidRequestError        one or more parameters are wrong
│   └── ContextLengthError     prompt and output do not fit the model's context
├── RequestTooLargeError       the request message is over the size limit
├── AuthenticationError        no API key, or one that is unknown or revoked
├── PermissionDeniedError      the key may not do this
├── NotFoundError              no such model
├── RateLimitError             the key spent its quota; `retry_after` says when to come back
├── QueueFullError             too many requests wait already; `retry_after` says when to come back
├── UnavailableError           not reachable, starting, draining, or gone in the middle of an answer
│   └── CancelledByServerError the other side dropped the call
├── DeadlineError              the timeout passed
├── ReaderStalledError         this side left its stream unread for too long
├── InternalError              the service failed; its log has the request id
├── ProtocolError              the service broke the grammar of its own stream
└── ClosedError                this side closed the client, or the stream, that the call belongs to

No `grpc.RpcError` leaves the client; the one behind an error is its `__cause__`. `asyncio.CancelledError`
passes through untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class InferenceError(Exception):
    """Any failure of a call. The message holds nothing of the request."""

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
        """The reason in lower case, `queue_full`; stable, made for programs."""
        self.request_id = request_id
        """The id to look for in the service's log, where there is one."""
        self.retry_after = retry_after
        """Seconds after which the service asks to be tried again; None: it does not ask."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that is wrong."""

    field: str
    """Its path in the protocol: `stopping.max_tokens`, `chat.messages[2].role`; empty: the whole request."""
    description: str
    """What is wrong, with the accepted range, as the rest of a sentence that begins with the field. Names of
    other fields, and of values, stand between backticks."""
    reason: str
    """`invalid_value`, `missing_required_parameter` or `unsupported_parameter`."""


class InvalidRequestError(InferenceError):
    """Expected: one or more parameters are wrong. Another attempt fails the same way."""

    default_code = "invalid_value"
    violations: tuple[FieldViolation, ...] = ()

    @property
    def param(self) -> str | None:
        """The first field that is wrong, by its path; None where the service named none."""
        return self.violations[0].field or None if self.violations else None


class ContextLengthError(InvalidRequestError):
    """Expected: prompt and output together are longer than the model's context."""

    default_code = "context_length_exceeded"
    prompt_tokens: int | None = None
    """Tokens of the prompt; None where the service gave no number, here and below."""
    max_tokens: int | None = None
    """Tokens that were to be generated."""
    context_length: int | None = None
    """Tokens that the model has room for."""


class RequestTooLargeError(InferenceError):
    """Expected: the request message is over the size limit, of the client or of the service."""

    default_code = "request_too_large"
    size: int | None = None
    """Bytes of the message."""
    limit: int | None = None
    """Most bytes that are taken."""


class AuthenticationError(InferenceError):
    """Expected: no API key, or one that is unknown or revoked."""

    default_code = "invalid_api_key"


class PermissionDeniedError(InferenceError):
    """Expected: the key's level does not allow this call."""

    default_code = "insufficient_scope"


class NotFoundError(InferenceError):
    """Expected: no such model."""

    default_code = "model_not_found"
    served: tuple[str, ...] = ()
    """The models that are served."""


class RateLimitError(InferenceError):
    """Expected: the key spent its quota. Not retried by the client; `retry_after` is for the caller."""

    default_code = "rate_limit_exceeded"
    limit: int | None = None
    """Requests a minute that the key has."""


class QueueFullError(InferenceError):
    """Expected: too many requests wait. Not retried by the client; `retry_after` is for the caller."""

    default_code = "queue_full"


class UnavailableError(InferenceError):
    """Expected: the service cannot be reached, is starting or draining, or died during the answer.

    Before the first event the client has tried again already, as often as it was told to.
    """

    default_code = "not_ready"


class DeadlineError(InferenceError):
    """Expected: the timeout passed before there was anything to return."""

    default_code = "deadline_exceeded"


class ReaderStalledError(InferenceError):
    """Expected: this side left its stream unread for so long that the service ended it."""

    default_code = "reader_stalled"


class CancelledByServerError(UnavailableError):
    """Unexpected: the service, or something on the way, dropped the call. It is tried again, too."""

    default_code = "cancelled"


class InternalError(InferenceError):
    """Unexpected: the service failed."""

    default_code = "internal_error"


class ProtocolError(InferenceError):
    """Unexpected: the service broke the grammar of its stream, or sent half an answer."""

    default_code = "protocol_error"


class ClosedError(InferenceError):
    """Expected: this side closed the client or the stream before, or under, the call."""

    default_code = "closed"
