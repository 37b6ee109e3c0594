"""Authentication: the key of a call, its level, and its rate of requests."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from inference_service.errors import PermissionDenied, RateLimited, Unauthenticated
from lodestream_common.failed_keys import FailedKeys, bearer_token, host_of_peer
from lodestream_common.keys import KeyLimits, Keyring, Level

ANONYMOUS = "anonymous"
"""The key name of every caller of an open server."""

Metadata = Iterable[tuple[str, "str | bytes"]]


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of the key that a call carries."""

    key_id: str
    key_name: str
    level: Level
    is_active: bool = True
    """False once the key was revoked or has expired."""
    limits: KeyLimits = field(default_factory=KeyLimits)
    models: tuple[str, ...] = ()
    """Names or ids of the models that it may use; empty: all."""

    def may_use(self, *names: str) -> bool:
        """Whether the key may use a model that has one of these names."""
        return not self.models or any(name in self.models for name in names)


class RateLimiter:
    """A token bucket for each key: `per_minute` requests at once, refilled evenly."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}
        """Key id → (requests left, when that was true on the monotonic clock)."""

    def spend(self, key_id: str) -> None:
        """Take one request from a key's bucket.

        Raises:
            RateLimited: the bucket is empty; the error says when the next request is possible.

        """
        if not self._per_minute:
            return
        now = time.monotonic()
        left, since = self._buckets.get(key_id, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - since) * self._per_minute / 60)
        if left < 1:
            self._buckets[key_id] = (left, now)
            raise RateLimited(self._per_minute, (1 - left) * 60 / self._per_minute)
        self._buckets[key_id] = (left - 1, now)


class Access:
    """Checks a call's key, its level and its rate. A server without keys admits everybody."""

    def __init__(self, keyring: Keyring, limiter: RateLimiter) -> None:
        self._keyring = keyring
        self._limiter = limiter
        self._failed = FailedKeys()

    def refusal_delay(self, metadata: Metadata, peer: str) -> float:
        """Seconds by which to delay the refusal of an invalid key; 0 for a call without a key.

        Args:
            metadata: of the call.
            peer: address of the caller, in gRPC's notation.

        """
        return self._failed.delay(host_of_peer(peer)) if _bearer(metadata) else 0.0

    def identify(self, metadata: Metadata) -> Caller | None:
        """The holder of the call's key, active or not; None: there is no key, or it is unknown."""
        if not self._keyring.guarded:
            return Caller(ANONYMOUS, ANONYMOUS, Level.ADMIN)
        key = self._keyring.find(_bearer(metadata))
        if key is None:
            return None
        return Caller(key.id, key.name, key.level, key.is_active, key.limits, key.models)

    def admit(self, caller: Caller | None, needed: Level) -> Caller:
        """Check that a caller may make a call, and count it against the rate.

        Raises:
            Unauthenticated: the key is unknown, revoked or expired, or there is none.
            PermissionDenied: the key's level is below `needed`.
            RateLimited: the key used up its quota.

        """
        if caller is None or not caller.is_active:
            raise Unauthenticated("A valid API key is required: authorization: Bearer pg_...")
        if not caller.level.allows(needed):
            raise PermissionDenied(f"The key's level is {caller.level.value}; this needs {needed.value}.")
        if caller.key_id != ANONYMOUS:
            self._limiter.spend(caller.key_id)
        return caller

    def is_still_active(self, caller: Caller) -> bool:
        """Whether the key of an admitted caller is still active."""
        return caller.key_id == ANONYMOUS or self._keyring.is_active(caller.key_id)


def _bearer(metadata: Metadata) -> str:
    """The caller's token; empty where there is none."""
    value = next((value for name, value in metadata if name == "authorization"), None)
    return (bearer_token(value) or "") if isinstance(value, str) else ""
