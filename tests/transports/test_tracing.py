"""Traces over both transports, which a real OTLP receiver gets when both servers have ended."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_client import AsyncClient, InferenceError
from inference_service.config import cache_home
from lodestream_common import tracing
from lodestream_common.errors import OperatorError
from tests.support.otlp import ReceivedSpan, Receiver, otlp_receiver
from tests.support.parts import free_port
from tests.support.processes import server_process

CACHE = cache_home()
"""The ordinary cache, whatever home a test has."""
MODEL = "smollm2-135m-instruct"
SECRET = "the-prompt-of-a-caller"
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": SECRET}],
    "max_tokens": 7,
    "ignore_eos": True,
}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
ROUTE = "POST /v1/chat/completions"
RPC = "lodestream.inference.v1.GenerateService/GenerateStream"
UNARY = "lodestream.inference.v1.GenerateService/Generate"


@dataclass(frozen=True, slots=True)
class Servers:
    """The addresses of both servers as `host:port`, and the file with their log."""

    service: str
    bridge: str
    log: Path

    async def ask(self, body: object, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=20) as http:
            url = f"http://{self.bridge}/v1/chat/completions"
            return await http.post(url, json=body, headers=headers)

    async def leave_early(self, body: object, **headers: str) -> None:
        """Read the beginning of a stream and close the connection."""
        async with httpx.AsyncClient(timeout=20) as http:
            url = f"http://{self.bridge}/v1/chat/completions"
            async with http.stream("POST", url, json=body, headers=headers) as reply:
                async for _ in reply.aiter_lines():
                    break

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of the log."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@asynccontextmanager
async def traced_servers(home: Path, **settings: Any) -> AsyncIterator[Servers]:
    """Run both servers; when the context ends, both have drained and ended."""
    common = {"log_level": "info", "log_format": "json"}
    given = {"backend": "simulated", "model": MODEL, "cache_dir": CACHE, "requests_per_minute": 0, **settings}
    log = home / "log"
    with log.open("wb") as stderr:
        async with (
            server_process("serve", home, stderr, grpc_address="127.0.0.1:0", **given, **common) as service,
            server_process(
                "bridge", home, stderr, http_address="127.0.0.1:0", grpc_address=service.address, **common
            ) as bridge,
        ):
            yield Servers(service.address, bridge.address, log)
            for process in (bridge, service):
                process.signal(signal.SIGTERM)
                assert await process.wait() == 0


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the OTEL variables of the environment."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver of spans; the tested servers send them only when they end."""
    with otlp_receiver() as started:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", started.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
        yield started


def in_order(receiver: Receiver, trace: str) -> tuple[ReceivedSpan, ReceivedSpan, list[ReceivedSpan]]:
    """The spans of a trace, which must be exactly those of the bridge, the service, and its stages."""
    (bridge,) = [s for s in receiver.spans if s.trace == trace and s.server == "lodestream-bridge"]
    (service,) = receiver.children(bridge)
    stages = receiver.children(service)
    assert len([s for s in receiver.spans if s.trace == trace]) == 2 + len(stages)
    assert (bridge.kind, service.kind, service.server) == ("server", "server", "lodestream-service")
    assert bridge.began <= service.began <= service.ended
    assert all(service.began <= s.began <= s.ended <= service.ended for s in stages)
    assert [s.ended for s in stages[:-1]] == [s.began for s in stages[1:]]
    return bridge, service, stages


async def test_a_rest_request_is_one_trace_with_the_stages_of_the_engine(
    tmp_path: Path, receiver: Receiver
) -> None:
    traces = {name: f"{number:032x}" for number, name in enumerate(("plain", "streamed", "refused"), 1)}
    async with traced_servers(tmp_path) as servers:
        bodies = {
            "plain": {**CHAT, "temperature": 0.5, "n": 2},
            "streamed": {**CHAT, "stream": True},
            "refused": {**CHAT, "temperature": 9},
        }
        replies = {
            name: await servers.ask(body, traceparent=f"00-{traces[name]}-{PARENT}-01", tracestate="a=1")
            for name, body in bodies.items()
        }

    assert [reply.status_code for reply in replies.values()] == [200, 200, 400]
    for name in ("plain", "streamed"):
        bridge, service, stages = in_order(receiver, traces[name])
        assert (bridge.name, bridge.parent, service.name) == (ROUTE, PARENT, RPC)
        assert [stage.name for stage in stages] == ["queue", "prefill", "decode"]
        assert bridge.attributes["http.response.status_code"] == 200
        assert bridge.attributes["http.route"] == "/v1/chat/completions"
        assert service.attributes["rpc.response.status_code"] == "OK"
        assert service.attributes["lodestream.request_id"] == replies[name].headers["x-request-id"]
        assert not bridge.failed
        assert not service.failed
    _, plain, _ = in_order(receiver, traces["plain"])
    usage = replies["plain"].json()["usage"]
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.choice.count": 2,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.response.finish_reasons": ["max_tokens", "max_tokens"],
    }
    assert expected.items() <= plain.attributes.items()
    bridge, service, stages = in_order(receiver, traces["refused"])
    assert bridge.attributes["http.response.status_code"] == 400
    assert service.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert service.attributes["error.type"] == "invalid_value"
    assert not bridge.failed
    assert not service.failed
    assert not stages
    assert not any(SECRET.encode() in body for body in receiver.bodies)
    ids = {
        (line["server"], line.get("trace_id"))
        for line in servers.lines()
        if line["event"] in ("rpc", "request")
    }
    assert ids >= {(server, trace) for server in ("service", "bridge") for trace in traces.values()}


async def test_the_trace_of_a_disconnected_caller_has_the_decoded_tokens(
    tmp_path: Path, receiver: Receiver
) -> None:
    async with traced_servers(tmp_path, simulated_decode_tps=100) as servers:
        await servers.leave_early({**CHAT, "max_tokens": 2000, "stream": True}, traceparent=TRACEPARENT)

    bridge, service, stages = in_order(receiver, TRACE)
    assert bridge.attributes["error.type"] == "client_gone"
    assert service.attributes["rpc.response.status_code"] == "CANCELLED"
    assert 0 < service.attributes["gen_ai.usage.output_tokens"] < 2000
    assert [stage.name for stage in stages] == ["queue", "prefill", "decode"]


async def test_a_grpc_caller_continues_its_own_trace_and_a_malformed_one_begins_a_new_trace(
    tmp_path: Path, receiver: Receiver
) -> None:
    malformed = (
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        "nonsense",
    )

    def message(model: str = MODEL) -> GenerateRequest:
        return GenerateRequest(model=model, prompt="x")

    def carrying(value: str) -> tuple[tuple[str, str], ...]:
        return (("traceparent", value),)

    async with traced_servers(tmp_path) as servers, AsyncClient(servers.service) as client:
        for number, value in enumerate((TRACEPARENT, *malformed)):
            name = f"direct-{number}"
            await client.generate_request(message(), metadata=carrying(value), request_id=name)
        unsampled = carrying(f"00-{TRACE}-{PARENT}-00")
        await client.generate_request(message(), metadata=unsampled, request_id="unsampled")
        with pytest.raises(InferenceError):
            await client.generate_request(message(SECRET), request_id="unknown")

    spans = {span.attributes["lodestream.request_id"]: span for span in receiver.named(UNARY)}
    assert (spans["direct-0"].trace, spans["direct-0"].parent) == (TRACE, PARENT)
    new = [f"direct-{number}" for number in range(1, 1 + len(malformed))]
    assert [name for name in new if spans[name].trace == TRACE or spans[name].parent] == []
    assert "unsampled" not in spans
    assert spans["unknown"].attributes["error.type"] == "model_not_found"
    assert not any(SECRET.encode() in body for body in receiver.bodies)


async def test_probes_have_no_spans_and_spans_of_unknown_routes_have_no_path(
    tmp_path: Path, receiver: Receiver
) -> None:
    async with (
        traced_servers(tmp_path) as servers,
        httpx.AsyncClient(base_url=f"http://{servers.bridge}") as http,
    ):
        expected = {
            "/health": 200,
            "/metrics": 200,
            f"/{SECRET}": 404,
            f"/v1/models?{SECRET}": 200,
            "/v1/usage/that-nobody-made": 404,
        }
        assert {path: (await http.get(path)).status_code for path in expected} == expected
        twice = await http.get("/v1/models/unknown", headers=[("traceparent", TRACEPARENT)] * 2)
        assert twice.status_code == 404

    bridges = [span.name for span in receiver.spans if span.server == "lodestream-bridge"]
    assert sorted(bridges) == [
        "GET",
        "GET /v1/models",
        "GET /v1/models/{model:path}",
        "GET /v1/usage/{request_id}",
    ]
    assert not any(SECRET.encode() in body for body in receiver.bodies)
    (listed,) = receiver.children(receiver.named("GET /v1/models")[0])
    assert listed.name == "lodestream.inference.v1.ModelService/ListModels"
    # Two `traceparent` headers are invalid.
    assert TRACE not in {span.trace for span in receiver.spans}


async def test_the_standard_variables_set_the_service_name_and_the_sampling(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "of-the-operator")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    async with traced_servers(tmp_path) as servers:
        await servers.ask(CHAT)
        await servers.ask(CHAT, traceparent=TRACEPARENT)

    assert {span.server for span in receiver.spans} == {"of-the-operator"}
    assert {span.trace for span in receiver.spans} == {TRACE}
    assert len(receiver.spans) == 5


async def test_an_unreachable_receiver_delays_neither_requests_nor_the_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    async with traced_servers(tmp_path) as servers:
        assert (await servers.ask(CHAT)).status_code == 200
        ending = time.monotonic()

    assert time.monotonic() - ending < 30
    assert any("opentelemetry" in line.get("logger", "") for line in servers.lines())


@pytest.mark.parametrize("variables", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
async def test_without_an_endpoint_or_where_disabled_nothing_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    async with traced_servers(tmp_path) as servers:
        assert (await servers.ask(CHAT, traceparent=TRACEPARENT)).status_code == 200

    text = servers.log.read_text()
    assert "lodestream_common.tracing" in text
    # FastAPI imports OpenTelemetry's API by itself.
    assert "opentelemetry.sdk" not in text
    assert "opentelemetry.exporter" not in text
    assert not any("trace_id" in line for line in servers.lines())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
    ],
)
def test_an_unsupported_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(OperatorError, match=name):
        tracing.start("bridge")
