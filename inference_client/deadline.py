"""A fixed point in time, handed inward instead of a timeout that each layer would measure anew."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

_FARTHEST = 365 * 24 * 3600.0
"""Seconds; the gRPC core takes a timeout that overflows its clock for one that has passed."""


_CLOCK_ERROR = 0.005
"""Seconds by which the core may take a deadline for later than it is."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment by which a call, retries included, has to be over."""

    at: float | None
    """On the monotonic clock, seconds; None: never."""

    @classmethod
    def after(cls, timeout: float | None) -> Deadline:
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
