"""One call, before and between its attempts: what is sent beside the message, for how long, how often."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message as ProtoMessage

from inference_client.deadline import Deadline, rounded_for_the_wire
from inference_client.errors import AuthenticationError, DeadlineError, ProtocolError
from inference_client.retry import RetryPolicy
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
    ) -> Call:
        """A call that is about to begin; its time runs from here.

        Raises:
            ValueError: the request id, the timeout or the metadata is malformed.

        """
        request_id = _checked_request_id(request_id) if request_id is not None else uuid.uuid4().hex
        return Call(
            request_id=request_id,
            api_key=api_key if api_key is not None else self.api_key,
            metadata=((REQUEST_ID_KEY, request_id), *_checked_metadata(metadata)),
            deadline=Deadline.after(timeout if timeout is not None else self.timeout),
            defaults=self,
        )


class Call:
    """The attempts of one call. All carry the same request id, and share one deadline."""

    __slots__ = ("_api_key", "_began", "_deadline", "_defaults", "_failed", "_metadata", "request_id")

    def __init__(
        self,
        request_id: str,
        api_key: str | None,
        metadata: tuple[tuple[str, str | bytes], ...],
        deadline: Deadline,
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
    def is_patient(self) -> bool:
        """Whether a service that goes away before its first output is waited for."""
        return self._defaults.retry.patience > 0

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
