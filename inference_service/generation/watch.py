"""The moments of a request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from inference_service.generation.events import Timings


@dataclass(slots=True)
class Stopwatch:
    """The moments of a request, in seconds of the monotonic clock."""

    arrived: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None

    def on_admitted(self) -> None:
        if self.admitted is None:
            self.admitted = time.monotonic()

    def on_token(self) -> None:
        self.last_token = time.monotonic()
        if self.first_token is None:
            self.first_token = self.last_token

    @property
    def timings(self) -> Timings:
        admitted = self.admitted or self.arrived
        first = self.first_token or admitted
        last = self.last_token or first
        return Timings(
            queue_ms=(admitted - self.arrived) * 1e3,
            prefill_ms=(first - admitted) * 1e3,
            decode_ms=(last - first) * 1e3,
            time_to_first_token_ms=(first - self.arrived) * 1e3,
        )
