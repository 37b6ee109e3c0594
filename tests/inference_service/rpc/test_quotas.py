"""Quotas are counted in memory and in a real Redis."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from inference_service.errors import InvalidRequest, RateLimited
from inference_service.rpc.auth import Caller
from inference_service.rpc.buckets import QuotaBuckets
from inference_service.rpc.quotas import Quotas, duration
from lodestream_common.keys import ANONYMOUS, KeyLimits, Level
from tests.support.parts import running_redis

DAY = 86_400.0
"""A period in which nothing of a small quota refills while a test runs."""


def caller(name: str = "alice", **limits: int) -> Caller:
    return Caller(f"key_{name}", name, Level.READ_WRITE, limits=KeyLimits(**limits))


async def spent(quotas: Quotas, who: Caller) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await quotas.count_request(who)
    return caught.value


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.2, "1s"), (59.1, "1m0s"), (59, "59s"), (360, "6m0s"), (61, "1m1s")]
)
def test_durations_have_openai_s_format(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def standing(metadata: Mapping[str, str], unit: str = "requests") -> list[str]:
    return [metadata[f"x-ratelimit-{name}-{unit}"] for name in ("limit", "remaining", "reset")]


async def test_a_refused_request_names_its_own_limit_also_where_the_tokens_are_in_debt() -> None:
    now = 0.0
    quotas = Quotas(1, QuotaBuckets(clock=lambda: now))
    who = caller(tokens_per_minute=10)
    await quotas.count_request(who)
    quotas.charge_tokens(who, 25)
    await quotas.close()

    error = await spent(quotas, who)

    assert "1 requests a minute" in str(error)
    assert standing(error.metadata) == ["1", "0", "1m0s"]
    assert standing(error.metadata, "tokens") == ["10", "0", "2m30s"]


async def test_requests_refill_one_by_one() -> None:
    """The error has the time until the next request; `reset` is the time until the quota is full."""
    now = 0.0
    quotas = Quotas(20, QuotaBuckets(clock=lambda: now))
    metadata = [await quotas.count_request(caller()) for _ in range(20)]
    assert [standing(metadata[i]) for i in (0, 1, 19)] == [
        ["20", "19", "3s"],
        ["20", "18", "6s"],
        ["20", "0", "1m0s"],
    ]
    now = 1.0
    error = await spent(quotas, caller())
    assert error.retry_after == pytest.approx(2)
    assert standing(error.metadata) == ["20", "0", "59s"]

    now += error.retry_after or 0

    assert standing(await quotas.count_request(caller())) == ["20", "0", "1m0s"]
    now += 30
    assert standing(await quotas.count_request(caller())) == ["20", "9", "33s"]


async def test_the_debt_of_an_answer_is_paid_off() -> None:
    now = 0.0
    quotas, who = Quotas(0, QuotaBuckets(clock=lambda: now)), caller(tokens_per_minute=60)
    quotas.charge_tokens(who, 100)
    await quotas.close()
    with pytest.raises(RateLimited) as caught:
        await quotas.reserve_tokens(who, 5)
    assert caught.value.retry_after == pytest.approx(45)
    assert standing(caught.value.metadata, "tokens") == ["60", "0", "1m40s"]

    now = 45.0

    assert standing(await quotas.reserve_tokens(who, 5), "tokens") == ["60", "0", "1m0s"]


async def test_a_limit_of_the_key_overrides_that_of_the_server() -> None:
    quotas = Quotas(1, QuotaBuckets(period=DAY))
    own, free = caller("own", requests_per_minute=3), caller("free", requests_per_minute=0)
    for _ in range(3):
        await quotas.count_request(own)
        assert await quotas.count_request(free) == {}
    assert (await spent(quotas, own)).limit == 3
    anonymous = Caller(ANONYMOUS, ANONYMOUS, Level.ADMIN)
    assert [await quotas.count_request(anonymous) for _ in range(3)] == [{}, {}, {}]


async def test_tokens_of_answers_are_charged_without_a_limit() -> None:
    quotas, who = Quotas(0, QuotaBuckets(period=DAY)), caller(tokens_per_minute=100)

    assert (await quotas.reserve_tokens(who, 30))["x-ratelimit-remaining-tokens"] == "70"
    quotas.charge_tokens(who, 60)
    await quotas.close()
    with pytest.raises(RateLimited, match="100 tokens a minute"):
        await quotas.reserve_tokens(who, 11)
    # Refused requests are not charged.
    assert (await quotas.reserve_tokens(who, 10))["x-ratelimit-remaining-tokens"] == "0"
    quotas.charge_tokens(who, 500)
    await quotas.close()
    with pytest.raises(RateLimited):
        await quotas.reserve_tokens(who, 1)


async def test_a_prompt_over_the_whole_quota_is_invalid() -> None:
    """A retry would not help, so the error is not that of a spent quota."""
    with pytest.raises(InvalidRequest, match=r"prompt of 101 tokens.* 100 tokens a minute"):
        await Quotas(0, QuotaBuckets()).reserve_tokens(caller(tokens_per_minute=100), 101)


async def test_concurrent_generations_are_limited_and_released() -> None:
    quotas, who = Quotas(0, QuotaBuckets()), caller(max_concurrent=2)
    async with quotas.running(who), quotas.running(caller("bob", max_concurrent=1)):
        async with quotas.running(who):
            with pytest.raises(RateLimited, match="2 generations at once"):
                async with quotas.running(who):
                    pass
        async with quotas.running(who):
            pass


async def test_two_replicas_share_one_redis() -> None:
    async with running_redis() as port:
        url = f"redis://127.0.0.1:{port}/0"
        one, other = (Quotas(3, QuotaBuckets(url, DAY)) for _ in range(2))
        who = caller(tokens_per_minute=50)
        await one.count_request(who)
        await other.count_request(who)
        assert (await one.count_request(who))["x-ratelimit-remaining-requests"] == "0"
        error = await spent(other, who)
        assert 0 < (error.retry_after or 0) <= DAY / 3

        await one.reserve_tokens(who, 20)
        one.charge_tokens(who, 20)
        await one.close()
        with pytest.raises(RateLimited):
            await other.reserve_tokens(who, 11)
        assert (await other.reserve_tokens(who, 10))["x-ratelimit-remaining-tokens"] == "0"
        await other.close()
