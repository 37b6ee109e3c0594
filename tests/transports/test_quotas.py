"""Quotas of keys, over gRPC and over REST."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
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
    """The metadata about quotas of a reply, also of a refusal."""
    request = grpc_request({**ASK, **changes})
    generate = caller.client.collect_request if streamed else caller.client.generate_request
    try:
        return (await generate(request, api_key=caller.key)).rate_limits
    except InferenceError as error:
        return error.rate_limits


def quotas(headers: Mapping[str, str], unit: str) -> tuple[str | None, str | None]:
    return headers.get(f"x-ratelimit-limit-{unit}"), headers.get(f"x-ratelimit-remaining-{unit}")


async def test_every_reply_says_what_is_left_of_the_requests(tmp_path: Path) -> None:
    async with limited(tmp_path, KeyLimits(requests_per_minute=7)) as (_, alice):
        replies: list[Mapping[str, str]] = [
            await by_grpc(alice),
            await by_grpc(alice, streamed=True),
            (await post(alice)).headers,
            (await post(alice, stream=True)).headers,
            (await post(alice, validate_only=True)).headers,
            (await post(alice, temperature=3)).headers,
            await by_grpc(alice, streamed=True, temperature=3),
        ]
        assert [quotas(reply, "requests") for reply in replies] == [("7", str(n)) for n in range(6, -1, -1)]
        assert not any("tokens" in name for reply in replies for name in reply if "ratelimit" in name)
        for stream in (False, True):
            refused = await post(alice, stream=stream)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert "7 requests a minute" in refused.json()["error"]["message"]
            assert 0 < int(refused.headers["retry-after"]) <= 61
            assert quotas(refused.headers, "requests") == ("7", "0")
            assert refused.headers["x-ratelimit-reset-requests"].endswith("s")
        assert quotas(await by_grpc(alice), "requests") == ("7", "0")


async def test_prompt_and_answer_are_charged(tmp_path: Path) -> None:
    """The prompt before the reply, the answer after it, on both transports from one quota."""
    async with limited(tmp_path, KeyLimits(tokens_per_minute=60)) as (_, alice):
        first = await alice.client.generate_request(grpc_request(ASK), api_key=alice.key)
        prompt, answer = first.usage.prompt_tokens, first.usage.completion_tokens
        assert answer > 0
        assert quotas(first.rate_limits, "tokens") == ("60", str(60 - prompt))

        second = await post(alice)
        assert quotas(second.headers, "tokens") == ("60", str(60 - 2 * prompt - answer))
        assert quotas((await post(alice, validate_only=True)).headers, "tokens")[0] == "60"

        replies = [await post(alice, stream=True) for _ in range(10)]
        refused = replies[-1]
        assert (replies[0].status_code, refused.status_code) == (200, 429)
        assert "60 tokens a minute" in refused.json()["error"]["message"]
        assert "x-ratelimit-reset-tokens" in refused.headers
        with pytest.raises(RateLimitError, match="60 tokens a minute") as caught:
            await alice.client.generate_request(grpc_request(ASK), api_key=alice.key)
        assert 0 < (caught.value.retry_after or 0) <= 61
        assert caught.value.limit == 60


async def test_a_prompt_over_the_quota_is_invalid_on_both(tmp_path: Path) -> None:
    async with limited(tmp_path, KeyLimits(tokens_per_minute=5)) as (_, alice):
        answers = [await ask({**ASK, "prompt": "hello world " * 20}) for ask in alice.ways]

    assert {answer.error for answer in answers} == {"invalid_value"}


async def test_generations_at_once_of_a_key_are_limited(tmp_path: Path) -> None:
    """A refused one does not wait in the queue, and another key is not concerned."""
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


async def test_two_services_share_one_redis(tmp_path: Path) -> None:
    """Requests and tokens count together, over whichever service and transport they come."""
    limits = KeyLimits(requests_per_minute=4, tokens_per_minute=1000)
    async with running_redis() as port, AsyncExitStack() as stack:
        url = f"redis://127.0.0.1:{port}/0"
        one, other = [
            (await stack.enter_async_context(limited(tmp_path, limits, limits_url=url)))[1] for _ in range(2)
        ]
        replies = [await by_grpc(one), (await post(other)).headers]
        replies += [await by_grpc(other, streamed=True), (await post(one, stream=True)).headers]

        assert [quotas(reply, "requests")[1] for reply in replies] == ["3", "2", "1", "0"]
        left = [int(quotas(reply, "tokens")[1] or -1) for reply in replies]
        assert left == sorted(left, reverse=True)
        assert len({*left}) == 4
        assert [(await post(caller)).status_code for caller in (one, other)] == [429, 429]


async def test_the_blocking_client_reports_quotas_too(tmp_path: Path) -> None:
    async with limited(tmp_path, KeyLimits(requests_per_minute=3)) as (servers, alice):

        def ask() -> list[Mapping[str, str]]:
            with Client(servers.service.address, api_key=alice.key, retries=0) as client:
                request = grpc_request(ASK)
                whole, stream = client.generate_request(request), client.stream_request(request)
                return [whole.rate_limits, stream.collect().rate_limits, stream.rate_limits]

        replies = await asyncio.to_thread(ask)

    assert [quotas(reply, "requests") for reply in replies] == [("3", "2"), ("3", "1"), ("3", "1")]
