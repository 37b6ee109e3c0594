"""Usage receipts agree with the answers that callers got and with the metrics."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_client import (
    AsyncClient,
    Client,
    InferenceError,
    NotFoundError,
    UnavailableError,
    UsageReceipt,
)
from lodestream_common.keys import KeyFile, Level
from lodestream_common.receipts import By, Receipt, SqliteStore, store_of
from tests.support.parts import free_port, running_postgres
from tests.support.processes import server_process
from tests.transports.metered import CACHE, MeteredServers, metered_servers, total

MODEL = "smollm2-135m-instruct"
REQUESTS = int(os.environ.get("LODESTREAM_RECEIPT_REQUESTS", "1500"))
"""The number of requests in the test of sums; 10000 take a minute or two."""
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 7,
    "ignore_eos": True,
}


def kept(path: Path) -> list[Receipt]:
    """All receipts in a file."""
    store = SqliteStore(path, can_create=False)
    store.open()
    try:
        with store._transaction() as run:
            names = ", ".join(Receipt._fields)
            return [Receipt(*row) for row in run(f"SELECT {names} FROM lodestream_receipts").fetchall()]
    finally:
        store.close()


async def kept_of(path: Path, count: int) -> list[Receipt]:
    """Wait for `count` receipts. Return all receipts."""
    end = asyncio.get_running_loop().time() + 20
    while len(found := kept(path)) < count:
        assert asyncio.get_running_loop().time() < end, f"{len(found)} of {count}"
        await asyncio.sleep(0.05)
    return found


async def one_request(client: AsyncClient, number: int, chance: random.Random) -> tuple[int, int]:
    """Send a request that is answered, streamed, refused or cancelled.

    Return prompt and completion tokens.
    """
    kind, prompt = chance.choice(["whole", "stream", "left", "refused"]), "word " * chance.randint(1, 9)
    options: dict[str, Any] = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": chance.randint(1, 12),
        "ignore_eos": True,
    }
    request_id = f"{kind}-{number}"
    if kind == "refused":
        with pytest.raises(InferenceError):
            await client.generate(**{**options, "model": "nobody"}, request_id=request_id)
        return 0, 0
    if kind == "whole":
        usage = (await client.generate(**options, request_id=request_id)).usage
        return usage.prompt_tokens, usage.completion_tokens
    if kind == "stream":
        usage = (await client.stream(**options, request_id=request_id).collect()).usage
        return usage.prompt_tokens, usage.completion_tokens
    # The stream never ends by itself, so the caller disconnects.
    with suppress(TimeoutError):
        async with asyncio.timeout(chance.random() / 20):
            await client.generate(**{**options, "max_tokens": 4000}, request_id=request_id)
    return 0, 0


async def test_sums_equal_those_of_the_metrics_and_of_the_answers(tmp_path: Path) -> None:
    chance, file, todo = random.Random(14), tmp_path / "receipts.db", iter(range(REQUESTS))
    got: dict[str, int] = {"prompt": 0, "completion": 0}

    async def caller(client: AsyncClient) -> None:
        for number in todo:
            prompt, completion = await one_request(client, number, chance)
            got["prompt"] += prompt
            got["completion"] += completion

    settings: dict[str, Any] = {"receipts_url": file, "max_concurrency": 8, "simulated_decode_tps": 2000}
    async with metered_servers(tmp_path, **settings) as servers:
        async with AsyncClient(servers.service, retries=0) as client:
            await asyncio.gather(*(caller(client) for _ in range(16)))
        samples = await servers.until("lodestream_requests_running", lambda running: running == 0)
        sent = sum(v for (name, _), v in samples.items() if name == "lodestream_requests_total")
        receipts = await kept_of(file, int(sent))
        samples = await servers.samples(servers.metrics)

    # A caller can disconnect before its call reaches the service.
    assert REQUESTS * 0.9 < len(receipts) <= REQUESTS
    assert len(receipts) == total(samples, "lodestream_requests_total")
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        counted = total(samples, f"lodestream_{name}_total")
        assert sum(getattr(receipt, name) or 0 for receipt in receipts) == counted
    for outcome in ("ok", "cancelled", "model_not_found"):
        counted = total(samples, "lodestream_requests_total", outcome=outcome)
        assert sum(receipt.outcome == outcome for receipt in receipts) == counted > 0
    answered = [r for r in receipts if r.request_id.startswith(("whole", "stream"))]
    assert sum(receipt.prompt_tokens for receipt in answered) == got["prompt"]
    assert sum(receipt.completion_tokens for receipt in answered) == got["completion"]
    aborted = [r for r in receipts if r.outcome == "cancelled"]
    assert sum(receipt.completion_tokens for receipt in aborted) > 0
    assert total(samples, "lodestream_receipts_dropped_total") == 0


async def test_a_killed_service_loses_at_most_a_second_and_records_the_gap(tmp_path: Path) -> None:
    file, address = tmp_path / "receipts.db", f"127.0.0.1:{free_port()}"
    metrics = f"127.0.0.1:{free_port()}"
    servers = MeteredServers(service=address, bridge="", metrics=metrics)
    settings = {
        "backend": "simulated",
        "model": MODEL,
        "grpc_address": address,
        "metrics_address": metrics,
        "cache_dir": CACHE,
        "requests_per_minute": 0,
        "receipts_url": file,
    }
    ended: list[tuple[float, str]] = []
    now = asyncio.get_running_loop().time

    async def caller(client: AsyncClient, name: int) -> None:
        for number in range(100_000):
            request_id = f"{name}-{number}"
            await client.generate(
                model=MODEL, prompt="x", max_tokens=3, ignore_eos=True, request_id=request_id
            )
            ended.append((now(), request_id))

    async with server_process("serve", tmp_path, **settings) as service:
        async with AsyncClient(address, retries=0) as client:
            callers = [asyncio.create_task(caller(client, name)) for name in range(4)]
            await kept_of(file, 50)
            killed = now()
            service.signal(signal.SIGKILL)
            await asyncio.gather(*callers, return_exceptions=True)
        await service.wait()
    found = {receipt.request_id for receipt in kept(file)}
    assert len(found) >= 50
    lost = [at for at, request_id in ended if request_id not in found]
    assert all(at > killed - 1 for at in lost)

    async with server_process("serve", tmp_path, **settings) as service:
        async with AsyncClient(address) as client:
            await client.generate(model=MODEL, prompt="x", max_tokens=1, request_id="after")
            await kept_of(file, len(found) + 1)
            gaps = gaps_of(file)
            samples = await servers.until("lodestream_receipts_gaps_total", bool, cause="crash")
        service.signal(signal.SIGTERM)
        assert await service.wait() == 0

    assert [(cause, count) for cause, count in gaps] == [("crash", None)]
    assert total(samples, "lodestream_receipts_gaps_total") == 1
    async with server_process("serve", tmp_path, **settings), AsyncClient(address) as client:
        await client.generate(model=MODEL, prompt="x", max_tokens=1, request_id="later")
        await kept_of(file, len(found) + 2)
        assert total(await servers.samples(metrics), "lodestream_receipts_gaps_total") == 0
    assert gaps_of(file) == gaps, "a clean end is no gap"


def gaps_of(path: Path) -> Sequence[tuple[str, int | None]]:
    store = SqliteStore(path, can_create=False)
    store.open()
    try:
        return [(gap.cause, gap.receipts) for gap in store.gaps(0, 1e12)]
    finally:
        store.close()


async def test_a_key_can_read_only_receipts_of_its_own_requests(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    own, mine = keys.create("mine", Level.READ_WRITE)
    _, other = keys.create("other", Level.ADMIN)
    _, elsewhere = keys.create("elsewhere", models=("of-another-service",))
    async with metered_servers(tmp_path, receipts_url=tmp_path / "receipts.db") as servers:
        reply = await post(servers, CHAT, mine, "answered")
        refused = await post(servers, {**CHAT, "model": "nobody"}, mine, "refused")
        await post(servers, {**CHAT, "temperature": 9}, mine, "invalid")
        await post(servers, CHAT, elsewhere, "forbidden")
        answered = await get(servers, "answered", mine)
        unknown = await get(servers, "refused", mine)
        of_refusals = [
            (await get(servers, name, key)).json()
            for name, key in (("invalid", mine), ("forbidden", elsewhere))
        ]
        foreign = await get(servers, "answered", other)
        missing = await get(servers, "never", mine)
        keyless = await get(servers, "answered", None)
        async with AsyncClient(servers.service, api_key=mine) as client:
            typed = await client.get_usage("answered")
            with pytest.raises(NotFoundError) as error:
                await client.get_usage("never")

        blocking, of_never = await asyncio.to_thread(read_blocking, servers.service, mine)

    assert blocking == typed
    assert of_never.code == "receipt_not_found"
    assert (reply.status_code, refused.status_code) == (200, 404)
    receipt = answered.json()
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert receipt["usage"][name] == reply.json()["usage"][name]
    assert (receipt["id"], receipt["outcome"], receipt["model"]) == ("answered", "ok", MODEL)
    assert (receipt["key_id"], receipt["key_name"]) == (own.id, "mine")
    assert receipt["finish_causes"] == ["max_tokens"]
    assert 0 <= receipt["timings"]["queue_ms"] <= receipt["timings"]["total_ms"]
    assert unknown.json()["outcome"] == "model_not_found"
    assert (unknown.json()["model"], unknown.json()["timings"]["queue_ms"]) == ("", None)
    assert [(found["outcome"], found["model"]) for found in of_refusals] == [
        ("invalid_value", MODEL),
        ("insufficient_scope", MODEL),
    ]
    assert (foreign.status_code, missing.status_code, keyless.status_code) == (404, 404, 401)
    assert foreign.json() == missing.json()
    assert missing.json()["error"]["code"] == "receipt_not_found"
    assert (typed.request_id, typed.key_id, typed.total_ms) == (
        "answered",
        own.id,
        receipt["timings"]["total_ms"],
    )
    assert error.value.code == "receipt_not_found"


def read_blocking(service: str, key: str) -> tuple[UsageReceipt, NotFoundError]:
    """The receipt of an answered request, and the error of one that never was, by the blocking client."""
    with Client(service, api_key=key) as client:
        receipt = client.get_usage("answered", timeout=20)
        with pytest.raises(NotFoundError) as error:
            client.get_usage("never", timeout=20)
    return receipt, error.value


async def post(servers: MeteredServers, body: object, key: str, request_id: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "x-request-id": request_id}
    async with httpx.AsyncClient(timeout=20) as http:
        return await http.post(f"http://{servers.bridge}/v1/chat/completions", json=body, headers=headers)


async def get(servers: MeteredServers, request_id: str, key: str | None) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(timeout=20) as http:
        return await http.get(f"http://{servers.bridge}/v1/usage/{request_id}", headers=headers)


async def test_a_service_without_receipts_returns_an_error(tmp_path: Path) -> None:
    async with metered_servers(tmp_path, receipts_url="off") as servers:
        async with AsyncClient(servers.service) as client:
            with pytest.raises(NotFoundError, match="keeps no receipts"):
                await client.get_usage("x")
        assert (await get(servers, "x", None)).status_code == 404


async def test_postgresql_gets_receipts_also_of_the_time_of_its_outage(tmp_path: Path) -> None:
    async with (
        running_postgres() as postgres,
        metered_servers(tmp_path, receipts_url=postgres.url) as servers,
    ):
        async with AsyncClient(servers.service, retries=0) as client:

            async def generate(name: str) -> None:
                await client.generate(model=MODEL, prompt="x", max_tokens=3, ignore_eos=True, request_id=name)

            async def until(count: int) -> None:
                end = asyncio.get_running_loop().time() + 20
                while (found := await asyncio.to_thread(requests_in, postgres.url)) < count:
                    assert asyncio.get_running_loop().time() < end, f"{found} of {count}"
                    await asyncio.sleep(0.1)

            await generate("before")
            await until(1)
            await postgres.stop()
            await generate("meanwhile")
            waiting = await client.get_usage("meanwhile")
            with pytest.raises(UnavailableError):
                await client.get_usage("before")
            await postgres.start()
            await until(2)
            await generate("after")
            receipts = [await client.get_usage(name) for name in ("before", "meanwhile", "after")]
        samples = await servers.samples(servers.metrics)

    assert waiting == receipts[1]
    assert [(receipt.outcome, receipt.completion_tokens) for receipt in receipts] == [("ok", 3)] * 3
    assert total(samples, "lodestream_receipts_dropped_total") == 0


def requests_in(url: str) -> int:
    """The number of receipts in a database, which the command's sums by each group must equal."""
    store = store_of(url)
    store.open()
    try:
        groups: tuple[By, ...] = ("key", "model", "day")
        counts = {sum(row.requests for row in store.sums(by, 0, 1e11)) for by in groups}
        assert len(counts) == 1
        return counts.pop()
    finally:
        store.close()
