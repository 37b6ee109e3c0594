"""One call before and between its attempts: metadata, deadline and retries.

Only UNAVAILABLE, and CANCELLED by the other side, and only before the first output: the service refused the
request, or the connection broke before anything was known to have happened. A spent quota and a full queue
are not tried again, since a retry makes the load worse that it was refused for; they reach the caller with
`retry_after`.
"""

from __future__ import annotations

import math
import random
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

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


@dataclass(frozen=True, slots=True)
class CallDefaults:
    """What a client gives to each of its calls that does not say otherwise."""

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
        """A call that is about to begin; its time runs from here.

        Raises:
            ValueError: the request id, the timeout or the metadata is malformed.

        """
        request_id = _checked_request_id(request_id) if request_id is not None else uuid.uuid4().hex
        return ClientCall(
            request_id=request_id,
            api_key=api_key if api_key is not None else self.api_key,
            metadata=((REQUEST_ID_KEY, request_id), *_checked_metadata(metadata)),
            deadline=CallDeadline.after(timeout if timeout is not None else self.timeout),
            defaults=self,
        )


class ClientCall:
    """The attempts of one call. All carry the same request id, and share one deadline."""

    __slots__ = ("_api_key", "_began", "_deadline", "_defaults", "_failed", "_metadata", "request_id")

    def __init__(
        self,
        request_id: str,
        api_key: str | None,
        metadata: tuple[tuple[str, str | bytes], ...],
        deadline: CallDeadline,
        defaults: CallDefaults,
    ) -> None:
        self.request_id = request_id
        self._api_key = api_key
        self._metadata = metadata
        self._deadline = deadline
        self._defaults = defaults
        self._failed = 0
        self._began = time.monotonic()

    @property
    def can_restart_stream(self) -> bool:
        """Whether a stream that started, and had no output yet, may be tried again."""
        return self._defaults.retry.retry_timeout > 0

    def check_size(self, request: ProtoMessage) -> None:
        """Refuse a message that the channel, or the service, would refuse.

        Raises:
            RequestTooLargeError: it is over the client's limit.

        """
        size = request.ByteSize()
        if size > self._defaults.max_message_bytes:
            error = request_too_large(size, self._defaults.max_message_bytes)
            error.request_id = self.request_id
            raise error

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What is sent beside the message.

        Raises:
            AuthenticationError: the key holds what no key can hold, and no header may.

        """
        if self._api_key is None:
            return self._metadata
        if not _METADATA_TEXT.fullmatch(self._api_key):
            raise AuthenticationError(
                "The API key holds characters that no key has.", request_id=self.request_id
            )
        return (("authorization", f"Bearer {self._api_key}"), *self._metadata)

    def timeout(self) -> float | None:
        """Seconds that the next attempt may take.

        The whole rest: the service ends a generation a little before its deadline, and this side must
        not be gone by then.

        Raises:
            DeadlineError: none are left.

        """
        remaining = self._deadline.remaining()
        if remaining is not None and remaining <= 0:
            raise DeadlineError("The timeout passed.", request_id=self.request_id)
        return None if remaining is None else rounded_for_the_wire(remaining)

    def decoded(self, decode: Callable[[ResponseT], ResultT], response: ResponseT) -> ResultT:
        """What an answer means; an error in it carries the id of the request."""
        try:
            return decode(response)
        except ProtocolError as error:
            error.request_id = self.request_id
            raise

    def pause_after(self, failure: grpc.RpcError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            InferenceError: there is none; this is what the call failed with.

        """
        self._failed += 1
        error = error_from_rpc(failure, self.request_id)
        elapsed = time.monotonic() - self._began
        pause = self._defaults.retry.pause(self._failed, error, self._deadline.remaining(), elapsed)
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


_FARTHEST = 365 * 24 * 3600.0
"""Seconds; the gRPC core takes a timeout that overflows its clock for one that has passed."""


_CLOCK_ERROR = 0.005
"""Seconds by which the core may take a deadline for later than it is."""


@dataclass(frozen=True, slots=True)
class CallDeadline:
    """The moment by which a call, retries included, has to be over."""

    at: float | None
    """On the monotonic clock, seconds; None: never."""

    @classmethod
    def after(cls, timeout: float | None) -> CallDeadline:
        """The moment `timeout` seconds from now; None: never.

        Raises:
            ValueError: the timeout is not a number.

        """
        if timeout is None:
            return cls(None)
        if math.isnan(timeout):
            raise ValueError("timeout must be a number of seconds.")
        return cls(time.monotonic() + min(timeout, _FARTHEST))

    def remaining(self) -> float | None:
        """Seconds left, 0 or less once it has passed; None: without end."""
        return None if self.at is None else self.at - time.monotonic()


def rounded_for_the_wire(timeout: float) -> float:
    """The timeout to give to gRPC, at most 1 % longer: what its header can say, and not a moment more.

    The header has three digits, rounded up: of 120.001 s the service hears 121 s, and its answer, made a
    little before that, would find the caller gone. So both sides go by the three digits.

    Args:
        timeout: seconds, above 0; beyond a day the header has fewer digits.

    """
    if timeout < 0.99:
        return timeout  # told in whole milliseconds
    step = 10.0 ** (math.floor(math.log10(timeout)) - 2)
    return math.ceil(timeout / step) * step - _CLOCK_ERROR


_FIRST_PAUSE = 0.1
"""Seconds; doubled for each further attempt. A restarted service is connected to again within about 1 s."""
_RESTART_PAUSE = 0.1
"""Seconds between attempts within `retry_timeout`, also where the service asks for a longer pause: what takes
its place may be ready earlier."""
_LONGEST_PAUSE = 2.0
"""Seconds. A longer wait, if the service asks for one, is the caller's to decide on."""
_SPREAD = 0.25
"""Share by which a pause is drawn out at random, so that callers refused together do not return together."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is tried again."""

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
        self, failed: int, error: InferenceError, remaining: float | None, elapsed: float = math.inf
    ) -> float | None:
        """Seconds to wait before the next attempt; None: there is none.

        Args:
            failed: attempts that failed so far, 1 or more.
            error: what the last one failed with.
            remaining: seconds until the deadline; None: without end.
            elapsed: seconds since the first attempt.

        """
        if not isinstance(error, UnavailableError):
            return None
        if elapsed < self.retry_timeout:
            pause = _RESTART_PAUSE * (1 + random.uniform(0, _SPREAD))  # noqa: S311 - not a secret
            return pause if remaining is None or pause < remaining else None
        if failed > self.retries:
            return None
        # The service's own wish is a lower bound; no wish leaves it to the usual doubling.
        pause = _FIRST_PAUSE * 2 ** (failed - 1) if error.retry_after is None else error.retry_after
        if pause > _LONGEST_PAUSE:
            return None
        pause *= 1 + random.uniform(0, _SPREAD)  # noqa: S311 - not a secret
        return pause if remaining is None or pause < remaining else None
