"""What is tried again, and when.

Only UNAVAILABLE, and CANCELLED by the other side, and only before the first output: the service refused the
request, or the connection broke before anything was known to have happened. A spent quota and a full queue
are not tried again, since a retry makes the load worse that it was refused for; they reach the caller with
`retry_after`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from inference_client.errors import InferenceError, UnavailableError

_FIRST_PAUSE = 0.1
"""Seconds; doubled for each further attempt. A restarted service is connected to again within about 1 s."""
_PATIENT_PAUSE = 0.1
"""Seconds between attempts while patience lasts; a service that asks for more is about to be replaced."""
_LONGEST_PAUSE = 2.0
"""Seconds. A longer wait, if the service asks for one, is the caller's to decide on."""
_SPREAD = 0.25
"""Share by which a pause is drawn out at random, so that callers refused together do not return together."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is tried again."""

    retries: int
    """Attempts after the first one, 0 or more."""
    patience: float = 0.0
    """Seconds after the first attempt for which there are further ones, however many there were: long enough
    for a service that restarts. 0 or more."""

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError("retries must be 0 or more.")
        if not self.patience >= 0:
            raise ValueError("patience must be 0 or more.")

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
        if elapsed < self.patience:
            pause = _PATIENT_PAUSE * (1 + random.uniform(0, _SPREAD))  # noqa: S311 - not a secret
            return pause if remaining is None or pause < remaining else None
        if failed > self.retries:
            return None
        # The service's own wish is a lower bound; no wish leaves it to the usual doubling.
        pause = _FIRST_PAUSE * 2 ** (failed - 1) if error.retry_after is None else error.retry_after
        if pause > _LONGEST_PAUSE:
            return None
        pause *= 1 + random.uniform(0, _SPREAD)  # noqa: S311 - not a secret
        return pause if remaining is None or pause < remaining else None
