"""The quotas of keys: requests and tokens a minute, which refill evenly, and generations at once."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from inference_service.errors import InvalidRequest, RateLimited
from inference_service.rpc.auth import Caller
from inference_service.rpc.buckets import Bucket, ChargePolicy, QuotaBuckets
from lodestream_common.keys import ANONYMOUS

_BUSY_SECONDS = 1.0
"""Seconds after which a caller with too many generations may try again."""


@dataclass(frozen=True, slots=True)
class _QuotaState:
    """The state of a quota after a charge."""

    bucket: Bucket
    spent: float
    period: float
    """Seconds in which the whole quota refills."""

    def metadata(self) -> dict[str, str]:
        """The reply's metadata, under OpenAI's names of HTTP headers."""
        unit, limit = self.bucket.unit, self.bucket.limit
        return {
            f"x-ratelimit-limit-{unit}": str(limit),
            f"x-ratelimit-remaining-{unit}": str(max(0, math.floor(limit - self.spent))),
            f"x-ratelimit-reset-{unit}": duration(self._seconds_of(self.spent)),
        }

    def refusal(self, cost: int) -> RateLimited:
        """The error of a cost that does not fit, with the time until it does."""
        wait = self._seconds_of(self.spent + cost - self.bucket.limit)
        return RateLimited(self.bucket.limit, wait, f"{self.bucket.unit} a minute", self.metadata())

    def _seconds_of(self, amount: float) -> float:
        """The seconds in which so much refills."""
        return amount * self.period / self.bucket.limit


class QuotaControl(Protocol):
    """The quotas as calls use them; they are counted in this process or in that of the engine."""

    async def count_request(self, caller: Caller) -> Mapping[str, str]:
        """Count one request; see `Quotas`."""

    async def reserve_tokens(
        self, caller: Caller, tokens: int, *, only_check: bool = False
    ) -> Mapping[str, str]:
        """Charge the tokens of a prompt; see `Quotas`."""

    def charge_tokens(self, caller: Caller, tokens: int) -> None:
        """Charge the tokens of an answer; see `Quotas`."""

    def running(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """Count a generation until the context ends; see `Quotas`."""

    async def close(self) -> None:
        """Finish what is being counted."""


class Quotas(QuotaControl):
    """Holds callers to the quotas of their keys. Callers of an open server have none.

    Args:
        requests_per_minute: of a key that has no number of its own; 0: no limit.
        buckets: in which requests and tokens are counted.

    """

    def __init__(self, requests_per_minute: int, buckets: QuotaBuckets) -> None:
        self._requests_per_minute = requests_per_minute
        self.buckets = buckets
        self._running: Counter[str] = Counter()
        """Key id → generations that run or wait."""
        self._charging: set[asyncio.Task[None]] = set()

    async def count_request(self, caller: Caller) -> Mapping[str, str]:
        """Count one request. The result is metadata for the reply.

        Raises:
            RateLimited: the key has no request left now.

        """
        limit = request_limit(caller, self._requests_per_minute)
        if not limit:
            return {}
        try:
            return await self._charge(Bucket("requests", caller.key_id, limit), 1, ChargePolicy.IF_IT_FITS)
        except RateLimited as error:
            error.metadata = {**error.metadata, **await self._tokens_left(caller)}
            raise

    async def reserve_tokens(
        self, caller: Caller, tokens: int, *, only_check: bool = False
    ) -> Mapping[str, str]:
        """Charge the tokens of a prompt, before it is generated from. The result is metadata for the reply.

        Args:
            caller: whose quota it is.
            tokens: of the prompt, at least 1.
            only_check: charge nothing.

        Raises:
            RateLimited: the key has fewer tokens left now.
            InvalidRequest: the prompt has more tokens than the key has in a minute.

        """
        limit = caller.limits.tokens_per_minute
        if not limit:
            return {}
        if tokens > limit:
            raise InvalidRequest.of(
                "", f"has a prompt of {tokens} tokens; the key may use {limit} tokens a minute."
            )
        policy = ChargePolicy.NEVER if only_check else ChargePolicy.IF_IT_FITS
        return await self._charge(Bucket("tokens", caller.key_id, limit), tokens, policy)

    async def _tokens_left(self, caller: Caller) -> Mapping[str, str]:
        """Metadata about the tokens, for a request that is refused before its prompt is charged."""
        limit = caller.limits.tokens_per_minute
        if not limit:
            return {}
        bucket = Bucket("tokens", caller.key_id, limit)
        result = await self.buckets.charge(bucket, 0, ChargePolicy.NEVER)
        return _QuotaState(bucket, result.spent, self.buckets.period).metadata()

    async def _charge(self, bucket: Bucket, cost: int, policy: ChargePolicy) -> Mapping[str, str]:
        result = await self.buckets.charge(bucket, cost, policy)
        state = _QuotaState(bucket, result.spent, self.buckets.period)
        if not result.fits:
            raise state.refusal(cost)
        return state.metadata()

    def charge_tokens(self, caller: Caller, tokens: int) -> None:
        """Charge the tokens of an answer, soon and without a limit: they were generated already."""
        limit = caller.limits.tokens_per_minute
        if not limit or not tokens:
            return
        bucket = Bucket("tokens", caller.key_id, limit)

        async def charge() -> None:
            await self.buckets.charge(bucket, tokens, ChargePolicy.ALWAYS)

        # A task of its own, because the call may be cancelled.
        task = asyncio.create_task(charge(), name="charge-tokens")
        self._charging.add(task)
        task.add_done_callback(self._charging.discard)

    @asynccontextmanager
    async def running(self, caller: Caller) -> AsyncIterator[None]:
        """Count a generation until the context ends.

        Raises:
            RateLimited: as many generations of the key run or wait already as may.

        """
        limit = caller.limits.max_concurrent
        if limit and self._running[caller.key_id] >= limit:
            metadata = await self._tokens_left(caller)
            raise RateLimited(limit, _BUSY_SECONDS, "generations at once", metadata)
        self._running[caller.key_id] += 1
        try:
            yield
        finally:
            self._running[caller.key_id] -= 1
            if not self._running[caller.key_id]:
                del self._running[caller.key_id]

    async def close(self) -> None:
        """Finish what is being counted."""
        await asyncio.gather(*self._charging, return_exceptions=True)
        await self.buckets.close()


def request_limit(caller: Caller, usual: int) -> int:
    """The requests a minute of a caller, 0 for no limit; `usual` is that of a key without its own number."""
    own = caller.limits.requests_per_minute
    if caller.key_id == ANONYMOUS:
        return 0
    return usual if own is None else own


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them, rounded up: `1s`, `6m0s`."""
    minutes, rest = divmod(math.ceil(round(seconds, 6)), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
