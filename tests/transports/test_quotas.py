"""Quotas of keys, over gRPC and over REST."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_client import Client, InferenceError, RateLimitError
from lodestream_common.keys import KeyFile, KeyLimits
from tests.support.calls import eventually
from tests.support.messages import grpc_request
from tests.support.parts import running_redis
from tests.support.service import MODEL_ID
from tests.support.transports import Callers, Transports, running_transports

ASK = {"model": MODEL_ID, "prompt": "hello world", "max_tokens": 8, "temperature": 0}


@asynccontextmanager
async def limited(
    directory: Path, limits: KeyLimits, **service: Any
) -> AsyncIterator[tuple[Transports, Callers]]:
    keys = KeyFile(directory / "keys.json")
    _, token = (
        keys.create("alice", limits=limits) if not keys.list() else (None, (directory / "token").read_text())
    )
    (directory / "token").write_text(token)
    settings = {"keys_file": keys.path, "requests_per_minute": 0, **service}
    async with running_transports(**settings) as transports:
        yield transports, Callers(transports.client, transports.http, key=token)


async def post(caller: Callers, **changes: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {caller.key}"}
    return await caller.http.post("/v1/completions", json={**ASK, **changes}, headers=headers)


async def by_grpc(caller: Callers, *, streamed: bool = False, **changes: Any) -> Mapping[str, str]:
    """The metadata about quotas of a reply or an error."""
    request = grpc_request({**ASK, **changes})
    generate = caller.client.collect_request if streamed else caller.client.generate_request
    try:
        return (await generate(request, api_key=caller.key)).rate_limits
    except InferenceError as error:
        return error.rate_limits


def quotas(headers: Mapping[str, str], unit: str) -> tuple[str | None, str | None]:
    return headers.get(f"x-ratelimit-limit-{unit}"), headers.get(f"x-ratelimit-remaining-{unit}")


class Spending:
    """The remaining quota, which may be higher by the refill since the start of the test."""

    def __init__(self, limit: int, unit: str) -> None:
        self.began = time.monotonic()
        self.limit, self.unit = limit, unit

    def leaves(self, least: int, reply: Mapping[str, str]) -> bool:
        """Whether a reply has this limit, and says that so much is left."""
        limit, remaining = quotas(reply, self.unit)
        most = least + (time.monotonic() - self.began) * self.limit / 60
        return limit == str(self.limit) and remaining is not None and least <= int(remaining) <= most


async def until_refused(ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Ask until the quota is spent: while the test runs, it refills a little."""
    for _ in range(20):
        reply = await ask()
        if reply.status_code == 429:
            return reply
    raise AssertionError("no request was refused")


async def test_every_reply_has_the_remaining_requests(tmp_path: Path) -> None:
    async with limited(tmp_path, KeyLimits(requests_per_minute=10)) as (_, alice):
        spending = Spending(10, "requests")
        replies: list[Mapping[str, str]] = [
            await by_grpc(alice),
            await by_grpc(alice, streamed=True),
            (await post(alice)).headers,
            (await post(alice, stream=True)).headers,
            (await post(alice, validate_only=True)).headers,
            (await post(alice, temperature=3)).headers,
            await by_grpc(alice, streamed=True, temperature=3),
            (await post(alice, model="nobody")).headers,
            (await post(alice, model="nobody", stream=True)).headers,
            await by_grpc(alice, model="nobody"),
        ]
        assert all(spending.leaves(9 - i, reply) for i, reply in enumerate(replies))
        assert not any("tokens" in name for reply in replies for name in reply if "ratelimit" in name)
        for stream in (False, True):
            refused = await until_refused(partial(post, alice, stream=stream))
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert "10 requests a minute" in refused.json()["error"]["message"]
            assert 0 < int(refused.headers["retry-after"]) <= 6, "the tenth of a minute"
            assert quotas(refused.headers, "requests") == ("10", "0")
            assert refused.headers["x-ratelimit-reset-requests"] in {
                "1m0s",
                *(f"{n}s" for n in range(54, 60)),
            }
        assert spending.leaves(0, await by_grpc(alice))


async def test_replies_about_models_and_usage_have_the_remaining_requests_too(tmp_path: Path) -> None:
    settings = {"receipts_url": str(tmp_path / "receipts.db")}
    async with limited(tmp_path, KeyLimits(requests_per_minute=20), **settings) as (servers, alice):
        spending = Spending(20, "requests")
        headers = {"authorization": f"Bearer {alice.key}"}
        named = {**headers, "x-request-id": "answered"}
        assert (await alice.http.post("/v1/completions", json=ASK, headers=named)).status_code == 200
        replies: list[Mapping[str, str]] = [
            (await alice.http.get(path, headers=headers)).headers
            for path in (
                *("/v1/models", f"/v1/models/{MODEL_ID}", "/v1/models/nobody"),
                *("/v1/usage/answered", "/v1/usage/never"),
            )
        ]
        client, key = alice.client, alice.key
        replies += [
            (await client.list_models(api_key=key))[0].rate_limits,
            (await client.get_model(MODEL_ID, api_key=key)).rate_limits,
            (await client.count_tokens(MODEL_ID, prompt="hello", api_key=key)).rate_limits,
            (await client.validate_request(grpc_request(ASK), api_key=key)).rate_limits,
            (await client.get_usage("answered", api_key=key)).rate_limits,
        ]

        def ask() -> list[Mapping[str, str]]:
            with Client(servers.service.address, api_key=key, retries=0) as client:
                return [
                    client.list_models()[0].rate_limits,
                    client.get_model(MODEL_ID).rate_limits,
                    client.count_tokens(MODEL_ID, prompt="hello").rate_limits,
                    client.validate(model=MODEL_ID, prompt="hello").rate_limits,
                    client.get_usage("answered").rate_limits,
                ]

        replies += await asyncio.to_thread(ask)

    assert all(spending.leaves(18 - i, reply) for i, reply in enumerate(replies))


async def test_prompts_and_answers_are_charged(tmp_path: Path) -> None:
    """The prompt is charged before the reply and the answer after it; both transports share one quota."""
    async with limited(tmp_path, KeyLimits(tokens_per_minute=60)) as (_, alice):
        spending = Spending(60, "tokens")
        first = await alice.client.generate_request(grpc_request(ASK), api_key=alice.key)
        prompt, answer = first.usage.prompt_tokens, first.usage.completion_tokens
        assert answer > 0
        assert spending.leaves(60 - prompt, first.rate_limits)

        second = await post(alice)
        assert spending.leaves(60 - 2 * prompt - answer, second.headers)
        assert quotas((await post(alice, validate_only=True)).headers, "tokens")[0] == "60"

        assert (await post(alice, stream=True)).status_code == 200
        refused = await until_refused(partial(post, alice, stream=True))
        assert "60 tokens a minute" in refused.json()["error"]["message"]
        assert "x-ratelimit-reset-tokens" in refused.headers
        with pytest.raises(RateLimitError, match="60 tokens a minute") as caught:
            await alice.client.generate_request(grpc_request(ASK), api_key=alice.key)
        assert 0 < (caught.value.retry_after or 0) <= prompt + answer, "a token a second"
        assert caught.value.limit == 60


async def test_a_prompt_over_the_quota_is_invalid_over_both_transports(tmp_path: Path) -> None:
    async with limited(tmp_path, KeyLimits(tokens_per_minute=5)) as (_, alice):
        answers = [await ask({**ASK, "prompt": "hello world " * 20}) for ask in alice.ways]

    assert {answer.error for answer in answers} == {"invalid_value"}


async def test_concurrent_generations_of_a_key_are_limited(tmp_path: Path) -> None:
    """A generation above the limit is refused at once, and other keys are not affected."""
    async with limited(tmp_path, KeyLimits(max_concurrent=1), simulated_decode_tps=20) as (servers, alice):
        running = asyncio.create_task(post(alice, max_tokens=60, ignore_eos=True))
        await eventually(lambda: servers.service.loaded.admission.running == 1)

        refused = await post(alice)
        with pytest.raises(RateLimitError, match="1 generations at once"):
            await alice.client.generate_request(grpc_request(ASK), api_key=alice.key)

        assert refused.status_code == 429
        assert "1 generations at once" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "1"
        assert (await running).status_code == 200
        assert (await post(alice)).status_code == 200


async def test_every_429_names_all_limits_of_the_key(tmp_path: Path) -> None:
    """Whichever limit refuses: the requests a minute, the tokens, or the generations at once."""
    both = {"requests_per_minute": 3, "tokens_per_minute": 500}
    (tmp_path / "requests").mkdir()
    async with limited(tmp_path / "requests", KeyLimits(**both)) as (_, alice):
        refused = [await until_refused(partial(post, alice, stream=stream)) for stream in (False, True)]
        assert [quotas(reply.headers, "requests") for reply in refused] == [("3", "0")] * 2
        assert {quotas(reply.headers, "tokens")[0] for reply in refused} == {"500"}
        of_grpc = await by_grpc(alice)
        assert [quotas(of_grpc, unit)[0] for unit in ("requests", "tokens")] == ["3", "500"]
        assert 0 < int(of_grpc["x-ratelimit-remaining-tokens"]) < 500

    (tmp_path / "tokens").mkdir()
    small = KeyLimits(requests_per_minute=100, tokens_per_minute=20)
    async with limited(tmp_path / "tokens", small) as (_, alice):
        spent = await until_refused(partial(post, alice))
        assert [quotas(spent.headers, unit)[0] for unit in ("requests", "tokens")] == ["100", "20"]

    (tmp_path / "running").mkdir()
    limits = KeyLimits(requests_per_minute=100, tokens_per_minute=20, max_concurrent=1)
    async with limited(tmp_path / "running", limits, simulated_decode_tps=20) as (servers, alice):
        running = asyncio.create_task(post(alice, max_tokens=60, ignore_eos=True))
        await eventually(lambda: servers.service.loaded.admission.running == 1)
        busy: list[Mapping[str, str]] = [
            (await post(alice)).headers,
            await by_grpc(alice),
            await by_grpc(alice, streamed=True),
        ]
        assert (await running).status_code == 200
        assert [[quotas(reply, unit)[0] for unit in ("requests", "tokens")] for reply in busy] == [
            ["100", "20"]
        ] * 3


async def test_two_services_share_one_redis(tmp_path: Path) -> None:
    """Requests and tokens over any service and transport count together."""
    limits = KeyLimits(requests_per_minute=4, tokens_per_minute=1000)
    async with running_redis() as port, AsyncExitStack() as stack:
        url = f"redis://127.0.0.1:{port}/0"
        one, other = [
            (await stack.enter_async_context(limited(tmp_path, limits, limits_url=url)))[1] for _ in range(2)
        ]
        spending = Spending(4, "requests")
        replies = [await by_grpc(one), (await post(other)).headers]
        replies += [await by_grpc(other, streamed=True), (await post(one, stream=True)).headers]

        assert all(spending.leaves(3 - i, reply) for i, reply in enumerate(replies))
        left = [int(quotas(reply, "tokens")[1] or -1) for reply in replies]
        assert left == sorted(left, reverse=True)
        assert len({*left}) == 4
        for caller in (one, other):
            await until_refused(partial(post, caller))


async def test_the_blocking_client_reports_quotas_too(tmp_path: Path) -> None:
    async with limited(tmp_path, KeyLimits(requests_per_minute=3)) as (servers, alice):
        spending = Spending(3, "requests")

        def ask() -> list[Mapping[str, str]]:
            with Client(servers.service.address, api_key=alice.key, retries=0) as client:
                request = grpc_request(ASK)
                whole, stream = client.generate_request(request), client.stream_request(request)
                return [whole.rate_limits, stream.collect().rate_limits, stream.rate_limits]

        replies = await asyncio.to_thread(ask)

    assert all(spending.leaves(least, reply) for least, reply in zip((2, 1, 1), replies, strict=True))
