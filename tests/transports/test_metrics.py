"""`/metrics` of both servers agree with the answers that callers got."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from inference_client import AsyncClient, InferenceError
from lodestream_common.keys import KeyFile, Level
from tests.rest_bridge.running import running_bridge
from tests.support.service import running_service
from tests.transports.metered import MeteredServers, metered_servers, total

# The suffixes that Prometheus adds to the name of a family.
SUFFIXES = {"counter": "_total", "info": "_info"}
MODEL = "smollm2-135m-instruct"
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 7,
    "ignore_eos": True,
}


async def ask(servers: MeteredServers, body: object, path: str = "/v1/chat/completions") -> httpx.Response:
    async with httpx.AsyncClient(timeout=20) as http:
        return await http.post(f"http://{servers.bridge}{path}", json=body)


async def test_counted_tokens_and_requests_agree_with_the_answers(tmp_path: Path) -> None:
    async with metered_servers(tmp_path) as servers:
        usages = [(await ask(servers, {**CHAT, "n": n})).json()["usage"] for n in (1, 3)]
        refused = await ask(servers, {**CHAT, "temperature": 9})
        async with AsyncClient(servers.service) as client:
            generation = await client.generate(model=MODEL, prompt="direct", max_tokens=5, ignore_eos=True)
            with pytest.raises(InferenceError):
                await client.generate(model="nobody", prompt="x")
        service, bridge = await servers.samples(servers.metrics), await servers.samples(servers.bridge)

    assert refused.status_code == 400
    completion = sum(usage["completion_tokens"] for usage in usages) + generation.usage.completion_tokens
    prompt = sum(usage["prompt_tokens"] for usage in usages) + generation.usage.prompt_tokens
    assert total(service, "lodestream_completion_tokens_total") == completion
    assert total(service, "lodestream_prompt_tokens_total") == prompt
    assert total(service, "lodestream_requests_total", outcome="ok", method="Generate") == 1
    assert total(service, "lodestream_requests_total", outcome="ok", method="GenerateStream") == 2
    assert total(service, "lodestream_requests_total", outcome="invalid_value", model=MODEL) == 1
    assert total(service, "lodestream_requests_total", outcome="model_not_found", model="") == 1
    assert total(service, "lodestream_choices_finished_total", cause="max_tokens") == 5
    assert total(service, "lodestream_time_to_first_token_seconds_count", model=MODEL) == 3
    assert total(service, "lodestream_request_completion_tokens_sum") == completion
    route = {"route": "/v1/chat/completions", "method": "POST"}
    assert total(bridge, "lodestream_bridge_requests_total", **route, status="200", outcome="ok") == 2
    assert total(bridge, "lodestream_bridge_requests_total", **route, status="400") == 1
    assert total(bridge, "lodestream_bridge_time_to_first_byte_seconds_count", route=route["route"]) == 3


async def test_gauges_show_running_and_waiting_requests(tmp_path: Path) -> None:
    async with metered_servers(tmp_path, max_concurrency=1, simulated_decode_tps=20) as servers:
        running = [asyncio.create_task(ask(servers, {**CHAT, "max_tokens": 40})) for _ in range(3)]
        samples = await servers.until("lodestream_requests_waiting", lambda waiting: waiting == 2)
        assert total(samples, "lodestream_requests_running", model=MODEL) == 1
        assert total(samples, "lodestream_requests_running_limit") == 1
        assert total(samples, "lodestream_health", state="ready") == 1
        assert total(samples, "lodestream_health") == 1
        assert total(await servers.samples(servers.bridge), "lodestream_bridge_requests_active") >= 3
        for task in running:
            task.cancel()
        ended = {"outcome": "cancelled"}
        await servers.until("lodestream_requests_total", lambda cancelled: cancelled == 3, **ended)
        await servers.until("lodestream_requests_running", lambda running: running == 0)


@pytest.mark.parametrize("processes", [1, 2])
async def test_the_stream_interval_is_that_of_running_streams(tmp_path: Path, processes: int) -> None:
    """The two servers have different intervals, so that neither can pass for the other."""
    service = {"max_stream_interval": 0.03, "frontends": processes, "simulated_decode_tps": 20}
    bridge = {"max_stream_interval": 0.02, "workers": processes, "stream_pacing": "always"}
    async with metered_servers(tmp_path, of_bridge=bridge, stream_pacing="always", **service) as servers:
        assert await stream_intervals(servers) == (0.0, 0.0), "reading the metrics does not start the pacing"
        stream = asyncio.create_task(ask(servers, {**CHAT, "max_tokens": 1000, "stream": True}))
        await until_intervals(servers, (0.03, 0.02))
        stream.cancel()
        await until_intervals(servers, (0.0, 0.0))


async def until_intervals(servers: MeteredServers, wanted: tuple[float, float]) -> None:
    async with asyncio.timeout(15):
        while True:
            if await stream_intervals(servers) == wanted:
                return
            await asyncio.sleep(0.05)


async def stream_intervals(servers: MeteredServers) -> tuple[float, float]:
    """The stream intervals of the service and of the bridge, each from exactly one sample."""
    names = "lodestream_stream_interval_seconds", "lodestream_bridge_stream_interval_seconds"
    service, bridge = await servers.samples(servers.metrics), await servers.samples(servers.bridge)
    return service[names[0], frozenset()], bridge[names[1], frozenset()]


async def test_a_cancelled_request_counts_its_generated_tokens(tmp_path: Path) -> None:
    async with metered_servers(tmp_path, simulated_decode_tps=100) as servers:
        async with AsyncClient(servers.service) as client:
            stream = client.stream(model=MODEL, prompt="x", max_tokens=500, ignore_eos=True)
            async with stream:
                async for _ in stream.text():
                    break
        samples = await servers.until("lodestream_requests_total", bool, outcome="cancelled")

    assert 0 < total(samples, "lodestream_completion_tokens_total") < 500


async def test_callers_cannot_create_labels(tmp_path: Path) -> None:
    async with metered_servers(tmp_path) as servers:
        async with httpx.AsyncClient(base_url=f"http://{servers.bridge}") as http:
            for number in range(30):
                await http.request(f"METHOD{number}", f"/path-{number}")
                await http.post(f"/v1/path-{number}", json={"model": f"model-{number}"})
                await http.post("/v1/chat/completions", json={**CHAT, "model": f"model-{number}"})
                await http.get(f"/v1/models/model-{number}")
        service, bridge = await servers.samples(servers.metrics), await servers.samples(servers.bridge)

    for samples in (service, bridge):
        names = Counter(name for name, _ in samples)
        assert max(names.values()) < 200
        assert not any("path-" in value or "model-" in value for _, labels in samples for _, value in labels)


async def test_the_format_follows_the_accept_header_and_the_docs_name_every_metric(tmp_path: Path) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    async with metered_servers(tmp_path) as servers:
        await ask(servers, CHAT)
        for address in (servers.metrics, servers.bridge):
            plain = await servers.scrape(address)
            modern = await servers.scrape(address, accept="application/openmetrics-text; version=1.0.0")

            assert plain.headers["content-type"].startswith("text/plain")
            assert modern.headers["content-type"].startswith("application/openmetrics-text")
            families = list(parse_openmetrics(modern.text))  # type: ignore[no-untyped-call]
            names = {f"{family.name}{SUFFIXES.get(family.type, '')}" for family in families}
            ours = {name for name in names if name.startswith("lodestream_")}
            assert "lodestream_build_info" in ours
            assert {name for name in ours if f"`{name}`" not in documented} == set()


async def test_metrics_by_key_and_for_the_inference_gateway_are_optional(tmp_path: Path) -> None:
    async with metered_servers(tmp_path, metrics_gateway_names=True, metrics_keys=True) as servers:
        await ask(servers, CHAT)
        samples = await servers.samples(servers.metrics)

    names = {name for name, _ in samples}
    assert {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:num_requests_running"} <= names
    assert total(samples, "lodestream_requests_total", key="anonymous") == 1


async def test_metrics_are_counted_only_where_they_can_be_read(tmp_path: Path) -> None:
    """Requests are answered without them, too, and their route is then as any unknown one."""
    async with running_service() as service, running_bridge(service.address, metrics=False) as bridge:
        async with httpx.AsyncClient(base_url=f"http://{bridge.address}", timeout=20) as http:
            body = {"model": MODEL, "prompt": "Hello", "max_tokens": 2}
            assert (await http.post("/v1/completions", json=body)).status_code == 200
            missing, unknown = await http.get("/metrics"), await http.get("/nothing")
            assert (missing.status_code, unknown.status_code) == (404, 404)
            assert "/metrics" not in (await http.get("/openapi.json")).json()["paths"]
        assert service.server.metrics_address is None


async def test_with_keys_the_metrics_of_the_bridge_need_one(tmp_path: Path) -> None:
    _, key = KeyFile(tmp_path / "keys.json").create("scraper", Level.READ_ONLY)
    async with metered_servers(tmp_path) as servers:
        refused = await servers.scrape(servers.bridge)
        allowed = await servers.scrape(servers.bridge, authorization=f"Bearer {key}")
        open_port = await servers.scrape(servers.metrics)

    assert refused.status_code == 401
    assert allowed.status_code == 200
    assert open_port.status_code == 200
