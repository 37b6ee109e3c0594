"""Token buckets of quotas, in memory or in a Redis that replicas share.

A bucket holds a whole quota and refills evenly. Of each bucket two numbers are kept, however large the quota
is: the units spent, and the time of that figure. An answer is charged once its tokens are known, so more than
the quota can be spent; this debt is refilled first.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import structlog

from lodestream_common.errors import SettingError, install_command

_log = structlog.get_logger(__name__)

MINUTE = 60.0
_REDIS_SECONDS = 0.5
"""Seconds that a request waits for Redis."""
_OUTAGE_SECONDS = 1.0
"""Seconds after a failure in which Redis is not tried again."""
_TOLERANCE = 1e-6
"""Part of a unit that is ignored: rounding must not refuse a caller that waited for the whole retry time."""


class ChargePolicy(Enum):
    """Whether a bucket is charged with a cost."""

    IF_IT_FITS = "if it fits"
    NEVER = "never"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Bucket:
    """The bucket of one quota of one key."""

    unit: str
    """`requests` or `tokens`."""
    key_id: str
    limit: int
    """Units that a full bucket holds, and that it gets in one period; at least 1."""

    @property
    def name(self) -> str:
        """Its key in Redis. It names the limit, so that a changed one begins with a full bucket."""
        return f"lodestream:{self.unit}:{self.limit}:{self.key_id}"


@dataclass(frozen=True, slots=True)
class ChargeResult:
    """The result of a charge."""

    fits: bool
    """Whether the bucket had as much left as the cost."""
    spent: float
    """Units that are spent now, to nine decimals; above the limit where there is a debt."""


class MemoryBuckets:
    """Buckets of this process.

    Args:
        period: seconds in which an empty bucket fills.
        clock: seconds; never goes back.

    """

    def __init__(self, period: float = MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._period = period
        self._clock = clock
        self._spent: dict[Bucket, tuple[float, float]] = {}
        """Bucket → (units spent, time of that figure)."""

    def charge(self, bucket: Bucket, cost: int, policy: ChargePolicy) -> ChargeResult:
        """Charge a bucket with a cost, or only check whether the cost fits."""
        now = self._clock()
        spent, since = self._spent.get(bucket, (0.0, now))
        spent = max(0.0, spent - (now - since) * bucket.limit / self._period)
        fits = spent + cost <= bucket.limit + _TOLERANCE
        if policy is ChargePolicy.ALWAYS or (fits and policy is ChargePolicy.IF_IT_FITS):
            spent += cost
        self._spent[bucket] = spent, now
        return ChargeResult(fits, round(spent, 9))


_SCRIPT = """
local cost, limit, per_second = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local policy, tolerance = ARGV[4], tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept = redis.call('HMGET', KEYS[1], 'spent', 'at')
local spent, at = tonumber(kept[1] or 0), tonumber(kept[2] or now)
spent = math.max(0, spent - math.max(0, now - at) / 1000000 * per_second)
local fits = spent + cost <= limit + tolerance
if policy == 'always' or (fits and policy == 'if it fits') then
    spent = spent + cost
end
if spent > 0 then
    redis.call('HSET', KEYS[1], 'spent', string.format('%.9f', spent), 'at', string.format('%.0f', now))
    redis.call('PEXPIRE', KEYS[1], math.ceil(spent / per_second * 1000))
end
return {fits and 1 or 0, string.format('%.9f', spent)}
"""
"""Runs as one step, by the clock of Redis, so that the clocks of replicas do not matter. It notes the time of
each look: after that clock went back, a bucket refills from there on. A bucket that is full is not kept."""


class RedisBuckets:
    """Buckets in a Redis or Valkey, shared by all who use it.

    Args:
        url: as redis://host:6379/0.
        period: seconds in which an empty bucket fills.

    Raises:
        SettingError: the URL is malformed, or the extra `redis` is not installed.

    """

    def __init__(self, url: str, period: float = MINUTE) -> None:
        self._period = period
        self._client = _redis_client(url)
        self._script = self._client.register_script(_SCRIPT)
        self.errors = _redis_errors()
        """The errors that `charge` raises where Redis does not answer."""

    async def charge(self, bucket: Bucket, cost: int, policy: ChargePolicy) -> ChargeResult:
        """Charge a bucket with a cost, or only check whether the cost fits.

        Raises:
            one of `errors`: Redis does not answer in time.

        """
        arguments = (cost, bucket.limit, bucket.limit / self._period, policy.value, _TOLERANCE)
        async with asyncio.timeout(_REDIS_SECONDS):
            fits, spent = await self._script(keys=[bucket.name], args=arguments)
        return ChargeResult(bool(fits), round(float(spent), 9))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _redis_client(url: str) -> Any:
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise SettingError(f"limits_url: needs the extra redis; run: {install_command('redis')}") from None
    try:
        return Redis.from_url(
            url,
            socket_connect_timeout=_REDIS_SECONDS,
            socket_timeout=_REDIS_SECONDS,
            # Once more, on a new connection: Redis may have closed the pooled one.
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError:
        raise SettingError("limits_url: is no URL of a Redis, as redis://host:6379/0") from None


def _redis_errors() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return RedisError, OSError, TimeoutError


class QuotaBuckets:
    """Buckets in Redis where it is set and answers, else in memory.

    A request never fails because Redis does: it is counted in memory then, and `on_failure` is called.

    Args:
        url: of a Redis or Valkey that replicas share; None: each replica counts for itself.
        period: seconds in which an empty bucket fills.
        clock: of the buckets in memory.

    Raises:
        SettingError: the URL is malformed, or the extra `redis` is not installed.

    """

    def __init__(
        self, url: str | None = None, period: float = MINUTE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.period = period
        self.on_failure: Callable[[], None] = lambda: None
        self._memory = MemoryBuckets(period, clock)
        self._shared = None if url is None else RedisBuckets(url, period)
        self._next_try = -math.inf
        self._is_out = False

    async def charge(self, bucket: Bucket, cost: int, policy: ChargePolicy) -> ChargeResult:
        """Charge a bucket with a cost, in memory if Redis fails."""
        if self._shared is not None and time.monotonic() >= self._next_try:
            try:
                result = await self._shared.charge(bucket, cost, policy)
            except self._shared.errors as error:
                self._note_failure(error)
            else:
                if self._is_out:
                    self._is_out = False
                    _log.info("limits_shared_again")
                return result
        elif self._shared is not None:
            self.on_failure()
        return self._memory.charge(bucket, cost, policy)

    async def close(self) -> None:
        """Close the connections."""
        if self._shared is not None:
            await self._shared.close()

    def _note_failure(self, error: BaseException) -> None:
        self._next_try = time.monotonic() + _OUTAGE_SECONDS
        self.on_failure()
        if not self._is_out:
            self._is_out = True
            # The text of the error may hold the address, which the operator knows from the setting.
            _log.warning("limits_not_shared", error=type(error).__name__)
