"""The errors that callers get. `rpc/status.py` turns each into a gRPC status.

ServiceError
├── InvalidRequest            fields are malformed, missing or out of range
├── ContextLengthExceeded     the prompt does not fit the model
├── RequestTooLarge           the message is over the size limit
├── Unauthenticated           no key, or an unknown, revoked or expired one
├── PermissionDenied          the key may not do this, or not with this model
├── ModelNotFound             no such model
├── ReceiptNotFound           no receipt of a request of this key
├── RateLimited               the key used up a quota
├── QueueFull                 too many requests wait already
├── ReaderStalled             the caller stopped reading its stream
├── Aborted                   another call of the caller aborted it
├── RequestTimeout            the request's message did not arrive in time
├── UnknownMethod             no such RPC
├── NotReady                  starting, draining, or the engine is down
└── DeadlineBeforeFirstToken  the deadline passed, or would pass, before the first token
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class ServiceError(Exception):
    """Expected: the caller can act on it. The message is safe to send, and never echoes input."""

    retry_after: float | None = None
    """Seconds after which a retry makes sense; None: a retry does not help."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One invalid field of a request."""

    field: str
    """Its path in the protocol: `stopping.max_tokens`, `chat.messages[2].role`; empty: the whole request."""
    description: str
    """The rest of a sentence that begins with the field: the value (numbers only) and the accepted range.
    Names of other fields and of enum values are those of the protocol, between backticks, so that a bridge
    can replace them by its own."""
    code: str = "invalid_value"
    """`invalid_value`, `missing_required_parameter` or `unsupported_parameter`."""

    @property
    def sentence(self) -> str:
        """The whole sentence, with the field."""
        return f"{self.field or 'The request'} {self.description}"


class InvalidRequest(ServiceError):
    """Expected: one or more fields are invalid."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__(" ".join(v.sentence for v in violations))
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str, code: str = "invalid_value") -> InvalidRequest:
        """An error with one violation; see `Violation` for the arguments."""
        return cls([Violation(field, description, code)])


class ContextLengthExceeded(ServiceError):
    """Expected: prompt and output together are longer than the model's context.

    litellm and LangChain recognise this error by its words, which are those of OpenAI and Anthropic.
    """

    def __init__(
        self, prompt_tokens: int, max_tokens: int, context_length: int, field: str, *, is_least: bool = False
    ) -> None:
        """Args: is_least: `prompt_tokens` is a lower bound, because the prompt was not encoded."""
        total, least = prompt_tokens + max_tokens, "at least " if is_least else ""
        super().__init__(
            f"This model's maximum context length is {context_length} tokens. However, you requested "
            f"{least}{total} tokens ({prompt_tokens} in the {field.partition('[')[0]}, {max_tokens} in the "
            f"completion). The prompt is too long: {total} tokens > {context_length} maximum."
        )
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.context_length = context_length
        self.field = field


class RequestTooLarge(ServiceError):
    """Expected: the message is over the size limit."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"The request is {size} bytes; the limit is {limit} bytes.")
        self.size = size
        self.limit = limit


class Unauthenticated(ServiceError):
    """Expected: no key, or one that is unknown, revoked or expired."""


class PermissionDenied(ServiceError):
    """Expected: the key's level does not allow this call, or the key may not use the model."""


class ModelNotFound(ServiceError):
    """Expected: no such model."""

    def __init__(self, served: Sequence[str]) -> None:
        super().__init__(f"No such model. Served here: {', '.join(served)}.")
        self.served = tuple(served)


class ReceiptNotFound(ServiceError):
    """Expected: the caller's key made no request with this id, or its receipt was not kept."""

    def __init__(self, *, are_kept: bool = True) -> None:
        """Args: are_kept: whether the service keeps receipts at all."""
        super().__init__(
            "There is no receipt of a request of this key with this id."
            if are_kept
            else "This service keeps no receipts."
        )


class RateLimited(ServiceError):
    """Expected: the key used up one of its quotas."""

    def __init__(
        self,
        limit: int,
        retry_after: float,
        quota: str = "requests a minute",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Args: quota: what the limit counts; metadata: of the reply, about the quotas of the key."""
        super().__init__(f"The key's limit of {limit} {quota} is spent.")
        self.limit = limit
        self.retry_after = retry_after
        self.metadata = metadata or {}


class QueueFull(ServiceError):
    """Expected: the queue is full."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        """Args: waiting: requests that wait; on a server with keys, those of the caller's key."""
        super().__init__(f"All slots are busy and {waiting} requests wait already.")
        self.retry_after = retry_after


class NotReady(ServiceError):
    """Expected: the service is starting, draining, or its engine is down."""

    def __init__(self, state: str, retry_after: float = 1.0) -> None:
        super().__init__(f"The service takes no requests now: {state}.")
        self.retry_after = retry_after


class DeadlineBeforeFirstToken(ServiceError):
    """Expected: the deadline passed before the first token, or would pass while the request waits."""

    def __init__(self, wait: float | None = None) -> None:
        """Args: wait: how long the request would wait, in seconds; None: the deadline has passed."""
        super().__init__(
            "The deadline passed before the first token."
            if wait is None
            else f"A request waits about {wait:.1f} s for its turn now, longer than its deadline allows."
        )


class ReaderStalled(ServiceError):
    """Expected: the caller did not read its stream for too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The stream was left unread for {seconds:g} seconds and was ended.")


class Aborted(ServiceError):
    """Expected: the caller aborted the request by another call."""

    def __init__(self) -> None:
        super().__init__("The request was aborted.")


class RequestTimeout(ServiceError):
    """Expected: the message of the request did not arrive in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request's message did not arrive within {seconds:g} seconds.")


class UnknownMethod(ServiceError):
    """Expected: no such RPC."""

    def __init__(self) -> None:
        super().__init__("No such method.")
