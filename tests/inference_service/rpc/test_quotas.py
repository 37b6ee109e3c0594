"""The counting of quotas, in memory and in a real Redis."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from inference_service.errors import InvalidRequest, RateLimited
from inference_service.rpc.auth import ANONYMOUS, Caller
from inference_service.rpc.quotas import Counts, Quotas, duration
from lodestream_common.errors import SettingError
from lodestream_common.keys import KeyLimits, Level
from tests.support.calls import eventually
from tests.support.parts import free_port, running_redis


def caller(name: str = "alice", **limits: int) -> Caller:
    return Caller(f"key_{name}", name, Level.READ_WRITE, limits=KeyLimits(**limits))


async def spent(quotas: Quotas, who: Caller) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await quotas.count_request(who)
    return caught.value


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.2, "1s"), (59.1, "1m0s"), (59, "59s"), (360, "6m0s"), (61, "1m1s")]
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_a_window_begins_again() -> None:
    """After `retry_after` the key has all its requests again."""
    quotas = Quotas(2, Counts(window=1))
    for remaining in ("1", "0"):
        metadata = await quotas.count_request(caller())
        assert metadata["x-ratelimit-remaining-requests"] == remaining
        assert metadata["x-ratelimit-limit-requests"] == "2"
    error = await spent(quotas, caller())
    assert error.metadata["x-ratelimit-remaining-requests"] == "0"

    await asyncio.sleep(error.retry_after or 0)

    assert (await quotas.count_request(caller()))["x-ratelimit-remaining-requests"] == "1"
    await quotas.close()


async def test_a_limit_of_the_key_replaces_that_of_the_server() -> None:
    quotas = Quotas(1, Counts())
    own, free = caller("own", requests_per_minute=3), caller("free", requests_per_minute=0)
    for _ in range(3):
        await quotas.count_request(own)
        assert await quotas.count_request(free) == {}
    assert (await spent(quotas, own)).limit == 3
    anonymous = Caller(ANONYMOUS, ANONYMOUS, Level.ADMIN)
    assert [await quotas.count_request(anonymous) for _ in range(3)] == [{}, {}, {}]


async def test_tokens_of_answers_are_charged_without_a_limit() -> None:
    quotas, who = Quotas(0, Counts()), caller(tokens_per_minute=100)

    assert (await quotas.reserve_tokens(who, 30))["x-ratelimit-remaining-tokens"] == "70"
    quotas.charge_tokens(who, 60)
    await quotas.close()
    with pytest.raises(RateLimited, match="100 tokens a minute"):
        await quotas.reserve_tokens(who, 11)
    # What was refused is not charged.
    assert (await quotas.reserve_tokens(who, 10))["x-ratelimit-remaining-tokens"] == "0"
    quotas.charge_tokens(who, 500)
    await quotas.close()
    with pytest.raises(RateLimited):
        await quotas.reserve_tokens(who, 1)


async def test_a_prompt_over_the_whole_quota_is_invalid() -> None:
    """Another try would not help, so it is no spent quota."""
    with pytest.raises(InvalidRequest, match=r"prompt of 101 tokens.* 100 tokens a minute"):
        await Quotas(0, Counts()).reserve_tokens(caller(tokens_per_minute=100), 101)


async def test_generations_at_once_are_limited_and_given_back() -> None:
    quotas, who = Quotas(0, Counts()), caller(max_concurrent=2)
    with quotas.running(who), quotas.running(caller("bob", max_concurrent=1)):
        with (
            quotas.running(who),
            pytest.raises(RateLimited, match="2 generations at once"),
            quotas.running(who),
        ):
            pass
        with quotas.running(who):
            pass


async def test_two_replicas_share_one_redis() -> None:
    async with running_redis() as port:
        url = f"redis://127.0.0.1:{port}/0"
        one, other = (Quotas(3, Counts(url)) for _ in range(2))
        who = caller(tokens_per_minute=50)
        await one.count_request(who)
        await other.count_request(who)
        assert (await one.count_request(who))["x-ratelimit-remaining-requests"] == "0"
        error = await spent(other, who)
        assert 1 <= (error.retry_after or 0) <= 61

        await one.reserve_tokens(who, 20)
        one.charge_tokens(who, 20)
        await one.close()
        with pytest.raises(RateLimited):
            await other.reserve_tokens(who, 11)
        assert (await other.reserve_tokens(who, 10))["x-ratelimit-remaining-tokens"] == "0"
        await other.close()


async def test_without_redis_each_replica_counts_for_itself() -> None:
    """One warning for an outage, a count of failures, and no failed request; then Redis counts again."""
    port = free_port()
    counts = Counts(f"redis://127.0.0.1:{port}")
    failures: list[None] = []
    counts.on_failure = lambda: failures.append(None)
    quotas = Quotas(2, counts)
    with capture_logs() as lines:
        await quotas.count_request(caller())
        await quotas.count_request(caller())
        assert (await spent(quotas, caller())).limit == 2
        assert len(failures) == 3
        async with running_redis(port):
            await asyncio.sleep(1.1)
            assert (await quotas.count_request(caller()))["x-ratelimit-remaining-requests"] == "1"
            await eventually(lambda: len(lines) == 2)
    assert [line["event"] for line in lines] == [
        "limits not shared: Redis does not answer",
        "limits shared again",
    ]
    assert str(port) not in str(lines)
    await quotas.close()


def test_a_malformed_url_is_named() -> None:
    with pytest.raises(SettingError, match="limits_url"):
        Counts("redis://127.0.0.1:port")
