"""The common parts of the request lines of both servers: the sample of them by outcome, and safe names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b

_NAME = re.compile(r"[A-Za-z0-9._:/@+-]{1,128}")
_RATE = re.compile(r"0|1|0?\.[0-9]{1,9}|1\.0{1,9}")
_ERRORS = frozenset({"deadline_exceeded", "internal_error", "not_ready", "reader_stalled"})
_GROUPS = {
    "ok": "ok",
    "cancelled": "cancelled",
    "client_gone": "cancelled",
    **dict.fromkeys(_ERRORS, "error"),
}
"""Outcome → its group; the group of every other outcome is `refused`."""
_WHOLE: Mapping[str, float] = {}


def loggable_name(name: object) -> str | None:
    """The name of a model as a request has it, for the log.

    Args:
        name: any value of the request.

    Returns:
        The name; None where it is empty, longer than 128 characters, or has others than letters, digits and
        `._:/@+-` of ASCII: it may then be text that belongs in no log.

    """
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None


class LogSample:
    """Decides which request lines are written. Both servers keep the lines of the same requests.

    Args:
        rates: group of outcomes (`ok`, `cancelled`, `refused`, `error`) → part of its lines that is written,
            from 0 to 1. Groups without a rate are written whole.

    """

    def __init__(self, rates: Mapping[str, float]) -> None:
        self._rates = {group: rate for group, rate in rates.items() if rate < 1}

    @classmethod
    def parse(cls, text: str) -> LogSample:
        """Read a setting such as `ok=0.01,refused=0.1`.

        Raises:
            ValueError: a group is unknown or named twice, or a rate is no decimal number from 0 to 1.

        """
        rates: dict[str, float] = {}
        for part in text.split(",") if text.strip() else ():
            group, _, rate = (word.strip() for word in part.partition("="))
            if group not in ("ok", "cancelled", "refused", "error"):
                raise ValueError(f"{group!r} is none of ok, cancelled, refused and error")
            if group in rates:
                raise ValueError(f"{group} is there twice")
            if not _RATE.fullmatch(rate):
                raise ValueError(f"the rate of {group} must be a decimal number from 0 to 1, as {group}=0.01")
            rates[group] = float(rate)
        return cls(rates)

    def fields(self, request_id: str, outcome: str) -> Mapping[str, float] | None:
        """The fields that the sample adds to a line; None: the line is not written."""
        rate = self._rates.get(_GROUPS.get(outcome, "refused"), 1.0) if self._rates else 1.0
        if rate == 1.0:
            return _WHOLE
        # The digest, unlike `hash` and a random number, is the same on both servers.
        fraction = int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest()) / 2**64
        return {"sample_rate": rate} if fraction < rate else None
