"""The state of the service, as grpc.health.v1 tells it."""

from __future__ import annotations

from enum import StrEnum

from grpc_health.v1 import health_pb2

from inference_client.call import CallDeadline
from inference_client.errors import DeadlineError, InferenceError, UnavailableError


class Health(StrEnum):
    """What the service says of itself. One that cannot be asked raises `UnavailableError` instead."""

    SERVING = "serving"
    """It takes requests."""
    NOT_SERVING = "not_serving"
    """It is starting, draining, or its engine is down."""
    SERVICE_UNKNOWN = "service_unknown"
    """It does not know the name that was asked for."""
    UNKNOWN = "unknown"
    """It does not say."""

    __str__ = str.__str__


_STATES = {
    health_pb2.HealthCheckResponse.SERVING: Health.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING: Health.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN: Health.SERVICE_UNKNOWN,
}


def health_request(service: str) -> health_pb2.HealthCheckRequest:
    """Ask for one service; the empty name is the whole server."""
    return health_pb2.HealthCheckRequest(service=service)


def decode_health(message: health_pb2.HealthCheckResponse) -> Health:
    """The state in an answer."""
    return _STATES.get(message.status, Health.UNKNOWN)


READY_POLL = 0.1
"""Seconds between two looks of `wait_ready`."""
_LOOK_TIMEOUT = 2.0
"""Seconds that one look may take; a service that hangs is asked again on what may be a new connection."""


class ReadyWait:
    """The state of one `wait_ready`."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._deadline = CallDeadline.after(timeout)

    def next_timeout(self) -> float:
        """Seconds that the next look may take."""
        return min(self._remaining(), _LOOK_TIMEOUT)

    def is_over(self, state: Health | InferenceError) -> bool:
        """Whether the service is ready, by what the last look found.

        Raises:
            DeadlineError: it is not, and there is no time left for another look.
            InferenceError: it never will be for this client, such as one without a key.

        """
        if isinstance(state, InferenceError) and not isinstance(state, (UnavailableError, DeadlineError)):
            raise state
        if state is Health.SERVING:
            return True
        if self._remaining() <= READY_POLL:
            raise DeadlineError(f"The service was not ready within {self._timeout:g} s; last seen: {state}")
        return False

    def _remaining(self) -> float:
        return self._deadline.remaining() or 0.0
