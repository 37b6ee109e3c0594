"""The quotas of keys: requests and tokens a minute, in memory or in a shared Redis, and generations at once.

A minute is a fixed window: it begins with the first request after the one before has ended. So a count is one
number, however large the quota is, and can grow over its limit when the tokens of an answer are known.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter

from inference_service.errors import InvalidRequest, RateLimited
from inference_service.rpc.auth import ANONYMOUS, Caller
from lodestream_common.errors import SettingError
from lodestream_common.installing import install_command

_log = structlog.get_logger(__name__)
T = TypeVar("T")

MINUTE = 60
_REDIS_SECONDS = 0.5
"""How long a request waits for Redis."""
_OUTAGE_SECONDS = 1.0
"""How long Redis is not tried again after a failure."""
_BUSY_SECONDS = 1.0
"""After which a caller with too many generations may try again."""


class Counts:
    """Counts by key and window, in Redis where it is set and answers, else in memory.

    A request never fails because Redis does: it is counted in memory then, and `on_failure` is called.

    Args:
        url: of a Redis or Valkey that replicas share; None: each counts for itself.
        window: seconds of a window.

    Raises:
        SettingError: the URL is malformed, or the extra `redis` is not installed.

    """

    def __init__(self, url: str | None = None, window: int = MINUTE) -> None:
        self.window = window
        self.on_failure: Callable[[], None] = lambda: None
        self._memory = FixedWindowRateLimiter(MemoryStorage())
        self._pool: Any = None
        self._shared: FixedWindowRateLimiter | None = None
        self._errors: tuple[type[Exception], ...] = ()
        if url is not None:
            pool = self._pool = _redis_pool(url)
            storage = RedisStorage(
                f"async+{url}", implementation="redispy", key_prefix="lodestream", connection_pool=pool
            )
            self._shared = FixedWindowRateLimiter(storage)
            self._errors = _redis_errors()
        self._next_try = -math.inf
        self._is_out = False

    async def use(self, work: Callable[[FixedWindowRateLimiter], Awaitable[T]]) -> T:
        """Do some counting, in memory if Redis fails."""
        if self._shared is not None and time.monotonic() >= self._next_try:
            try:
                async with asyncio.timeout(_REDIS_SECONDS):
                    result = await work(self._shared)
            except self._errors as error:
                self._note_failure(error)
            else:
                if self._is_out:
                    self._is_out = False
                    _log.info("limits shared again")
                return result
        elif self._shared is not None:
            self.on_failure()
        return await work(self._memory)

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.disconnect()

    def _note_failure(self, error: BaseException) -> None:
        self._next_try = time.monotonic() + _OUTAGE_SECONDS
        self.on_failure()
        if not self._is_out:
            self._is_out = True
            # The text of the error may hold the address, which the operator knows from the setting.
            _log.warning("limits not shared: Redis does not answer", error=type(error).__name__)


def _redis_pool(url: str) -> Any:
    try:
        from redis.asyncio import ConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise SettingError(f"limits_url: needs the extra redis; run: {install_command('redis')}") from None
    try:
        return ConnectionPool.from_url(
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


@dataclass(frozen=True, slots=True)
class _Standing:
    """How much of a quota is spent."""

    unit: str
    """`requests` or `tokens`."""
    limit: int
    remaining: int
    reset: float
    """Seconds until the window ends."""

    def metadata(self) -> dict[str, str]:
        """The reply's metadata, under OpenAI's names of HTTP headers."""
        values = {"limit": str(self.limit), "remaining": str(self.remaining), "reset": duration(self.reset)}
        return {f"x-ratelimit-{name}-{self.unit}": value for name, value in values.items()}

    def refusal(self, retry_after: float) -> RateLimited:
        return RateLimited(self.limit, retry_after, f"{self.unit} a minute", self.metadata())


class Quotas:
    """Holds callers to the quotas of their keys. Callers of an open server have none.

    Args:
        requests_per_minute: of a key that has no number of its own; 0: no limit.
        counts: where requests and tokens are counted.

    """

    def __init__(self, requests_per_minute: int, counts: Counts) -> None:
        self._requests_per_minute = requests_per_minute
        self.counts = counts
        self._running: Counter[str] = Counter()
        """Key id → generations that run or wait."""
        self._settling: set[asyncio.Task[None]] = set()

    async def count_request(self, caller: Caller) -> Mapping[str, str]:
        """Count one request. The result is metadata for the reply.

        Raises:
            RateLimited: the key has used its requests of this minute.

        """
        own = caller.limits.requests_per_minute
        limit = self._requests_per_minute if own is None else own
        if not limit or caller.key_id == ANONYMOUS:
            return {}
        item = self._item(limit)

        async def work(limiter: FixedWindowRateLimiter) -> tuple[bool, _Standing]:
            fits = await limiter.hit(item, "requests", caller.key_id)
            return fits, await _standing(limiter, item, "requests", caller.key_id)

        fits, standing = await self.counts.use(work)
        if not fits:
            raise standing.refusal(_retry_after(standing))
        return standing.metadata()

    async def reserve_tokens(
        self, caller: Caller, tokens: int, *, only_check: bool = False
    ) -> Mapping[str, str]:
        """Charge the tokens of a prompt, before it is generated from. The result is metadata for the reply.

        Args:
            caller: whose quota it is.
            tokens: of the prompt, at least 1.
            only_check: charge nothing.

        Raises:
            RateLimited: the key has fewer tokens left in this minute.
            InvalidRequest: the prompt has more tokens than the key has in a minute.

        """
        limit = caller.limits.tokens_per_minute
        if not limit:
            return {}
        if tokens > limit:
            raise InvalidRequest.of(
                "", f"has a prompt of {tokens} tokens; the key may use {limit} tokens a minute."
            )
        item = self._item(limit)

        async def work(limiter: FixedWindowRateLimiter) -> tuple[bool, _Standing]:
            fits = await limiter.test(item, "tokens", caller.key_id, cost=tokens)
            if fits and not only_check:
                await limiter.hit(item, "tokens", caller.key_id, cost=tokens)
            return fits, await _standing(limiter, item, "tokens", caller.key_id)

        fits, standing = await self.counts.use(work)
        if not fits:
            raise standing.refusal(_retry_after(standing))
        return standing.metadata()

    def charge_tokens(self, caller: Caller, tokens: int) -> None:
        """Charge the tokens of an answer, soon and without a limit: they were generated already."""
        limit = caller.limits.tokens_per_minute
        if not limit or not tokens:
            return
        item = self._item(limit)

        async def work(limiter: FixedWindowRateLimiter) -> bool:
            return await limiter.hit(item, "tokens", caller.key_id, cost=tokens)

        async def charge() -> None:
            await self.counts.use(work)

        # A task of its own, because the call may be cancelled.
        task = asyncio.create_task(charge(), name="charge-tokens")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    @contextmanager
    def running(self, caller: Caller) -> Iterator[None]:
        """Count a generation until the context ends.

        Raises:
            RateLimited: as many generations of the key run or wait already as may.

        """
        limit = caller.limits.max_concurrent
        if limit and self._running[caller.key_id] >= limit:
            raise RateLimited(limit, _BUSY_SECONDS, "generations at once", {})
        self._running[caller.key_id] += 1
        try:
            yield
        finally:
            self._running[caller.key_id] -= 1
            if not self._running[caller.key_id]:
                del self._running[caller.key_id]

    async def close(self) -> None:
        """Finish what is being counted."""
        await asyncio.gather(*self._settling, return_exceptions=True)
        await self.counts.close()

    def _item(self, limit: int) -> RateLimitItem:
        return RateLimitItemPerSecond(limit, self.counts.window)


async def _standing(
    limiter: FixedWindowRateLimiter, item: RateLimitItem, unit: str, key_id: str
) -> _Standing:
    stats = await limiter.get_window_stats(item, unit, key_id)
    return _Standing(unit, item.amount, stats.remaining, max(0.0, stats.reset_time - time.time()))


def _retry_after(standing: _Standing) -> float:
    # Redis reports whole seconds, rounded down.
    return math.floor(standing.reset) + 1.0


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them, rounded up: `1s`, `6m0s`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
