"""Token buckets, in memory and in a real Redis."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from inference_service.rpc.buckets import Bucket, ChargePolicy, MemoryBuckets, QuotaBuckets, RedisBuckets
from lodestream_common.errors import SettingError
from tests.support.calls import eventually
from tests.support.parts import free_port, running_redis

DAY = 86_400.0
"""A period in which nothing of a small quota refills while a test runs."""


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def bucket(limit: int, key_id: str = "key_alice") -> Bucket:
    return Bucket("requests", key_id, limit)


def url_of(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def test_a_bucket_refills_evenly() -> None:
    """A whole quota at once, then one for each sixtieth of the minute, and never more than the whole."""
    clock = Clock()
    buckets, of_60 = MemoryBuckets(clock=clock), bucket(60)

    def granted() -> int:
        count = 0
        while buckets.charge(of_60, 1, ChargePolicy.IF_IT_FITS).fits:
            count += 1
        return count

    assert granted() == 60
    for seconds, refilled in ((0.5, 0), (0.5, 1), (10, 10), (3600, 60)):
        clock.now += seconds
        assert granted() == refilled


def test_a_debt_is_refilled_first() -> None:
    clock = Clock()
    buckets, of_60 = MemoryBuckets(clock=clock), bucket(60)
    assert buckets.charge(of_60, 90, ChargePolicy.ALWAYS).spent == 90

    clock.now = 30.9
    assert not buckets.charge(of_60, 1, ChargePolicy.IF_IT_FITS).fits
    clock.now = 31
    assert buckets.charge(of_60, 1, ChargePolicy.IF_IT_FITS).fits


def test_a_check_charges_nothing() -> None:
    buckets = MemoryBuckets(DAY)
    assert all(buckets.charge(bucket(1), 1, ChargePolicy.NEVER).fits for _ in range(3))
    assert buckets.charge(bucket(1), 1, ChargePolicy.IF_IT_FITS).fits
    assert not buckets.charge(bucket(1), 1, ChargePolicy.NEVER).fits
    assert buckets.charge(bucket(2), 1, ChargePolicy.NEVER).fits, "another limit begins full"


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 20)), max_size=60),
)
def test_no_time_has_more_than_a_full_bucket_and_what_refilled_in_it(
    limit: int, tries: list[tuple[float, int]]
) -> None:
    clock = Clock()
    buckets = MemoryBuckets(clock=clock)
    granted: list[tuple[float, int]] = []
    for pause, cost in tries:
        clock.now += pause
        if buckets.charge(bucket(limit), cost, ChargePolicy.IF_IT_FITS).fits:
            granted.append((clock.now, cost))
    for first, (since, _) in enumerate(granted):
        total = 0
        for until, cost in granted[first:]:
            total += cost
            assert total <= limit + (until - since) * limit / 60 + 1e-3


async def test_redis_counts_as_memory_does() -> None:
    async with running_redis() as port:
        memory, redis = MemoryBuckets(DAY), RedisBuckets(url_of(port), DAY)
        steps = [
            (3, ChargePolicy.IF_IT_FITS),
            (8, ChargePolicy.IF_IT_FITS),
            (7, ChargePolicy.NEVER),
            (9, ChargePolicy.ALWAYS),
        ]
        for cost, policy in [*steps, (1, ChargePolicy.NEVER), (1, ChargePolicy.IF_IT_FITS)]:
            here, there = (
                memory.charge(bucket(10), cost, policy),
                await redis.charge(bucket(10), cost, policy),
            )
            assert there.fits is here.fits
            assert there.spent == pytest.approx(here.spent, abs=0.01)
        await redis.close()


async def test_a_bucket_in_redis_refills_and_is_gone_when_it_is_full() -> None:
    async with running_redis() as port, Redis(port=port) as client:
        buckets = RedisBuckets(url_of(port), period=1)
        assert (await buckets.charge(bucket(10), 15, ChargePolicy.ALWAYS)).spent == 15
        assert not (await buckets.charge(bucket(10), 1, ChargePolicy.IF_IT_FITS)).fits
        assert await client.dbsize() == 1

        await asyncio.sleep(0.61)
        assert (await buckets.charge(bucket(10), 1, ChargePolicy.IF_IT_FITS)).fits

        for _ in range(100):
            if not await client.dbsize():
                break
            await asyncio.sleep(0.05)
        assert await client.dbsize() == 0
        await buckets.close()


async def test_a_clock_of_redis_that_went_back_delays_no_refill() -> None:
    """The bucket was written an hour ahead of the clock of now."""
    async with running_redis() as port, Redis(port=port) as client:
        buckets = RedisBuckets(url_of(port), period=1)
        ahead: dict[Any, Any] = {"spent": "10", "at": str(int((time.time() + 3600) * 1e6))}
        await client.hset(bucket(10).name, mapping=ahead)
        assert not (await buckets.charge(bucket(10), 1, ChargePolicy.IF_IT_FITS)).fits

        await asyncio.sleep(0.11)

        assert (await buckets.charge(bucket(10), 1, ChargePolicy.IF_IT_FITS)).fits
        await buckets.close()


GRAB = """
import asyncio, sys, time
from inference_service.rpc.buckets import Bucket, ChargePolicy, RedisBuckets

async def main(url, limit):
    buckets, end, granted = RedisBuckets(url), time.monotonic() + 1, 0
    bucket = Bucket("requests", "key_alice", limit)
    while time.monotonic() < end:
        tries = [buckets.charge(bucket, 1, ChargePolicy.IF_IT_FITS) for _ in range(8)]
        granted += sum(result.fits for result in await asyncio.gather(*tries))
    print(granted)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""
"""Takes all that a bucket gives for a second, and prints how much that was."""


async def test_processes_together_never_get_more_than_the_limit() -> None:
    limit = 150
    async with running_redis() as port:
        began = time.monotonic()
        command = (sys.executable, "-c", GRAB, url_of(port), str(limit))
        grabbing = [await asyncio.create_subprocess_exec(*command, stdout=PIPE) for _ in range(3)]
        granted = sum([int((await process.communicate())[0]) for process in grabbing])
        refilled = (time.monotonic() - began) * limit / 60

    assert limit <= granted <= limit + refilled + 1


async def test_without_redis_each_replica_counts_for_itself() -> None:
    """An outage causes one warning and a count of failures, and no failed request.

    Later Redis counts again.
    """
    port = free_port()
    buckets = QuotaBuckets(url_of(port), DAY)
    failures: list[None] = []
    buckets.on_failure = lambda: failures.append(None)

    async def fits() -> bool:
        return (await buckets.charge(bucket(2), 1, ChargePolicy.IF_IT_FITS)).fits

    with capture_logs() as lines:
        assert [await fits() for _ in range(3)] == [True, True, False]
        assert len(failures) == 3
        async with running_redis(port):
            await asyncio.sleep(1.1)
            assert await fits()
            await eventually(lambda: len(lines) == 2)
    assert [line["event"] for line in lines] == [
        "limits_not_shared",
        "limits_shared_again",
    ]
    assert str(port) not in str(lines)
    await buckets.close()


def test_a_malformed_url_is_named() -> None:
    with pytest.raises(SettingError, match="limits_url"):
        QuotaBuckets("redis://127.0.0.1:port")
