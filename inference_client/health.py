"""The state of the service by the protocol grpc.health.v1, and the wait until it is ready."""

from __future__ import annotations

import time
from enum import StrEnum

from grpc_health.v1 import health_pb2

from inference_client.call import deadline_after
from inference_client.errors import DeadlineError, InferenceError, UnavailableError


class Health(StrEnum):
    """The state that the service reports. A service that cannot be reached raises `UnavailableError`
    instead.
    """

    SERVING = "serving"
    """It accepts requests."""
    NOT_SERVING = "not_serving"
    """It is starting or draining, or its engine does not run."""
    SERVICE_UNKNOWN = "service_unknown"
    """It does not know the requested name."""
    UNKNOWN = "unknown"
    """It reports no state."""

    __str__ = str.__str__


_STATES = {
    health_pb2.HealthCheckResponse.SERVING: Health.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING: Health.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN: Health.SERVICE_UNKNOWN,
}


def health_request(service: str) -> health_pb2.HealthCheckRequest:
    """Make the request for the state of one gRPC service; the empty name is the whole server."""
    return health_pb2.HealthCheckRequest(service=service)


def decode_health(message: health_pb2.HealthCheckResponse) -> Health:
    """Read the state from an answer."""
    return _STATES.get(message.status, Health.UNKNOWN)


READY_POLL = 0.1
"""Seconds between two requests of `wait_ready`."""
_READY_TIMEOUT = 2.0
"""Seconds that one request of `wait_ready` may take. If the service hangs, the next request may use a new
connection."""


class ReadyWait:
    """The state of one `wait_ready`."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._deadline = deadline_after(timeout)
        self._seen: Health | InferenceError | None = None

    def next_timeout(self) -> float:
        """Seconds that the next request may take."""
        return min(self._remaining(), _READY_TIMEOUT)

    def is_over(self, state: Health | InferenceError) -> bool:
        """Whether the service is ready, by the state or the error that the last request returned.

        Raises:
            DeadlineError: it is not ready, and no time is left for another request.
            InferenceError: another request cannot help, for example because the key is missing.

        """
        if isinstance(state, InferenceError) and not isinstance(state, (UnavailableError, DeadlineError)):
            raise state
        if state is Health.SERVING:
            return True
        # The last request is often cut short by the end of the wait, which says nothing about the service.
        if self._seen is None or not isinstance(state, DeadlineError):
            self._seen = state
        if self._remaining() <= READY_POLL:
            raise DeadlineError(
                f"The service was not ready within {self._timeout:g} s; last seen: {self._seen}"
            )
        return False

    def _remaining(self) -> float:
        return self._deadline - time.monotonic()
