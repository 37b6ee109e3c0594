"""The attempts of one call: metadata, deadline and retries.

The client retries UNAVAILABLE, and CANCELLED by the other side, and only before the first output: the service
refused the request, or the connection broke before there was a result. It does not retry after a spent quota
or a full queue, because a retry adds to the load that was the reason; the caller gets the error with
`retry_after`.
"""

from __future__ import annotations

import math
import random
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar

import grpc
from google.protobuf.message import Message as ProtoMessage

from inference_client.errors import (
    AuthenticationError,
    DeadlineError,
    InferenceError,
    ProtocolError,
    UnavailableError,
)
from inference_client.status import REQUEST_ID_KEY, error_from_rpc, request_too_large

Metadata = Sequence[tuple[str, str | bytes]]
ResponseT = TypeVar("ResponseT")
ResultT = TypeVar("ResultT")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_METADATA_KEY = re.compile(r"[a-z0-9_.-]+")
_METADATA_TEXT = re.compile(r"[\x20-\x7e]*")
_JOINED_EVENTS = ("x-joined-events", "1")


class CallOptions(TypedDict, total=False):
    """The keywords of one call, whatever it asks for."""

    timeout: float | None
    """Seconds that it may take, retries included; replaces the client's."""
    request_id: str | None
    """1 to 128 characters of [A-Za-z0-9._:-], which the logs of the service name; None: a random one."""
    api_key: str | None
    """Replaces the key of the client."""
    metadata: Metadata
    """Further gRPC metadata."""


@dataclass(frozen=True, slots=True)
class CallDefaults:
    """The client's values for calls that bring none of their own."""

    api_key: str | None
    timeout: float | None
    retry: RetryPolicy
    max_message_bytes: int

    def call(
        self,
        *,
        api_key: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> ClientCall:
        """Make a call; its timeout starts here.

        Raises:
            ValueError: the request id, the timeout or the metadata is malformed.

        """
        request_id = _checked_request_id(request_id) if request_id is not None else uuid.uuid4().hex
        return ClientCall(
            request_id=request_id,
            api_key=api_key if api_key is not None else self.api_key,
            metadata=((REQUEST_ID_KEY, request_id), *_checked_metadata(metadata)),
            deadline=deadline_after(timeout if timeout is not None else self.timeout),
            defaults=self,
        )


class ClientCall:
    """One call with all its attempts, which have the same request id and one deadline."""

    __slots__ = (
        "_api_key",
        "_began",
        "_deadline",
        "_defaults",
        "_failed",
        "_metadata",
        "rate_limits",
        "request_id",
    )

    def __init__(
        self,
        request_id: str,
        api_key: str | None,
        metadata: tuple[tuple[str, str | bytes], ...],
        deadline: float,
        defaults: CallDefaults,
    ) -> None:
        self.request_id = request_id
        self._api_key = api_key
        self._metadata = metadata
        self._deadline = deadline
        self._defaults = defaults
        self._failed = 0
        self.rate_limits: Mapping[str, str] = {}
        """The `x-ratelimit-` metadata of the reply to a call with one answer."""
        self._began = time.monotonic()

    @property
    def can_restart_stream(self) -> bool:
        """Whether a stream that started, and had no output yet, may be tried again."""
        return self._defaults.retry.retry_timeout > 0

    def check_size(self, request: ProtoMessage) -> None:
        """Check that the channel and the service accept a message of this size.

        Raises:
            RequestTooLargeError: the message is over the limit of the client.

        """
        size = request.ByteSize()
        if size > self._defaults.max_message_bytes:
            error = request_too_large(size, self._defaults.max_message_bytes)
            error.request_id = self.request_id
            raise error

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Make the metadata that is sent with the message.

        Raises:
            AuthenticationError: the key has characters that no key and no header can have.

        """
        if self._api_key is None:
            return self._metadata
        if not _METADATA_TEXT.fullmatch(self._api_key):
            raise AuthenticationError(
                "The API key has characters that no key can have.", request_id=self.request_id
            )
        return (("authorization", f"Bearer {self._api_key}"), *self._metadata)

    def stream_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The same for a stream, whose messages may then have several events each."""
        return (*self.metadata(), _JOINED_EVENTS)

    def timeout(self) -> float | None:
        """Seconds that the next attempt may take; None: no limit.

        An attempt gets all the time that is left: the service ends a generation a little before the deadline,
        and the client must still be there to read the answer.

        Raises:
            DeadlineError: no time is left.

        """
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineError("The timeout passed.", request_id=self.request_id)
        return None if math.isinf(remaining) else rounded_for_the_wire(remaining)

    def decoded(self, decode: Callable[[ResponseT], ResultT], response: ResponseT) -> ResultT:
        """Decode an answer; a `ProtocolError` gets the id of the request."""
        try:
            return decode(response)
        except ProtocolError as error:
            error.request_id = self.request_id
            raise

    def pause_after(self, failure: grpc.RpcError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            InferenceError: there is no further attempt; this is the error of the call.

        """
        self._failed += 1
        error = error_from_rpc(failure, self.request_id)
        now = time.monotonic()
        pause = self._defaults.retry.pause(self._failed, error, self._deadline - now, now - self._began)
        if pause is None:
            raise error from failure
        return pause


def _checked_request_id(request_id: str) -> str:
    if not _REQUEST_ID.fullmatch(request_id):
        raise ValueError("request_id must be 1 to 128 characters of A-Z, a-z, 0-9, '.', '_', ':' and '-'.")
    return request_id


def _checked_metadata(metadata: Metadata) -> Metadata:
    for key, value in metadata:
        if not _METADATA_KEY.fullmatch(key):
            raise ValueError("metadata keys must be of a-z, 0-9, '-', '_' and '.'.")
        if key.endswith("-bin"):
            fits = isinstance(value, bytes)
        else:
            fits = isinstance(value, str) and _METADATA_TEXT.fullmatch(value) is not None
        if not fits:
            raise ValueError(f"metadata {key} must be printable ASCII, or bytes where the key ends in -bin.")
    return metadata


_MAX_TIMEOUT = 365 * 24 * 3600.0
"""Seconds of the longest timeout. A timeout that overflows the clock of the gRPC core would count as
passed."""
_CLOCK_ERROR = 0.005
"""Seconds by which the clock of the gRPC core may delay a deadline."""


def deadline_after(timeout: float | None) -> float:
    """The time on the monotonic clock `timeout` seconds from now; infinity for None.

    Raises:
        ValueError: the timeout is not a number.

    """
    if timeout is None:
        return math.inf
    if math.isnan(timeout):
        raise ValueError("timeout must be a number of seconds.")
    return time.monotonic() + min(timeout, _MAX_TIMEOUT)


def rounded_for_the_wire(timeout: float) -> float:
    """Round a timeout up to what gRPC's header can express, so that both sides have the same deadline.

    The header has three digits, rounded up: 120.001 s reach the service as 121 s. The service would answer a
    little before 121 s, and the client would have left at 120.001 s.

    Args:
        timeout: seconds, above 0. The result is at most 1 % longer; above a day the header has fewer digits.

    """
    if timeout < 0.99:
        return timeout  # the header has whole milliseconds
    step = 10.0 ** (math.floor(math.log10(timeout)) - 2)
    return math.ceil(timeout / step) * step - _CLOCK_ERROR


_FIRST_PAUSE = 0.1
"""Seconds before the first retry; doubled for each further one. A service that is back is connected within 1
s."""
_RESTART_PAUSE = 0.1
"""Seconds between attempts within `retry_timeout`, also where the service asks for a longer pause: what takes
its place may be ready earlier."""
_LONGEST_PAUSE = 2.0
"""Seconds. If the service asks for a longer pause, the caller gets the error and decides."""
_SPREAD = 0.25
"""Share by which each pause is lengthened at random, so that callers do not all return at the same moment."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number and the duration of the attempts of a call."""

    retries: int
    """Attempts after the first one, 0 or more."""
    retry_timeout: float = 0.0
    """Seconds after the first attempt during which the number of attempts has no limit. 0 or more."""

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError("retries must be 0 or more.")
        if not self.retry_timeout >= 0:
            raise ValueError("retry_timeout must be 0 or more.")

    def pause(
        self, failed: int, error: InferenceError, remaining: float, elapsed: float = math.inf
    ) -> float | None:
        """Seconds to wait before the next attempt; None: there is no further attempt.

        Args:
            failed: number of failed attempts, 1 or more.
            error: the error of the last attempt.
            remaining: seconds until the deadline; may be infinity.
            elapsed: seconds since the first attempt.

        """
        if not isinstance(error, UnavailableError):
            return None
        if elapsed < self.retry_timeout:
            pause = _RESTART_PAUSE * (1 + random.uniform(0, _SPREAD))  # noqa: S311 - not a secret
            return pause if pause < remaining else None
        if failed > self.retries:
            return None
        # A pause that the service asks for is a lower bound.
        pause = _FIRST_PAUSE * 2 ** (failed - 1) if error.retry_after is None else error.retry_after
        if pause > _LONGEST_PAUSE:
            return None
        pause *= 1 + random.uniform(0, _SPREAD)  # noqa: S311 - not a secret
        return pause if pause < remaining else None
