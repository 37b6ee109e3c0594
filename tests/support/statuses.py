"""Reads the google.rpc details of a status, before it is sent or after it is received."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb
from google.rpc import status_pb2

DETAILS_KEY = "grpc-status-details-bin"

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class ReceivedStatus:
    """A status as its receiver sees it."""

    code: grpc.StatusCode
    message: str
    details: status_pb2.Status

    @property
    def reason(self) -> str:
        """ErrorInfo.reason; the info must be there, once, with our domain."""
        return str(self.info.reason)

    @property
    def info(self) -> Any:
        """The one ErrorInfo."""
        (info,) = self.all_of(details_pb.ErrorInfo)
        assert info.domain == "lodestream.inference.v1"
        return info

    @property
    def fields(self) -> list[str]:
        """The fields that BadRequest names."""
        return [v.field for bad in self.all_of(details_pb.BadRequest) for v in bad.field_violations]

    @property
    def retry_seconds(self) -> float:
        """The one RetryInfo's delay."""
        (retry,) = self.all_of(details_pb.RetryInfo)
        return float(retry.retry_delay.ToNanoseconds() / 1e9)

    def all_of(self, kind: type[Any]) -> list[Any]:
        """The details of one kind."""
        found = []
        for packed in self.details.details:
            if packed.Is(kind.DESCRIPTOR):
                found.append(kind())
                packed.Unpack(found[-1])
        return found


def read_status(
    code: grpc.StatusCode, message: str | None, trailing_metadata: Iterable[Any] | None
) -> ReceivedStatus:
    """Decode a status; its parts must not contradict each other."""
    (packed,) = (value for key, value in trailing_metadata or () if key == DETAILS_KEY)
    details = status_pb2.Status.FromString(packed)
    assert details.code == code.value[0]
    assert details.message == message
    return ReceivedStatus(code, message or "", details)


def status_of_call(error: grpc.aio.AioRpcError) -> ReceivedStatus:
    """Decode the status that a call ended with."""
    return read_status(error.code(), error.details(), error.trailing_metadata())
