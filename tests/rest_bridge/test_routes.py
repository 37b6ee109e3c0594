from __future__ import annotations

import re
import time
from typing import Any

import grpc
import httpx
import pytest
import structlog
from google.protobuf.json_format import MessageToDict

from rest_bridge.config import BridgeConfig
from tests.rest_bridge.bodies import CHAT, COMPLETIONS, COMPLETIONS_STREAM, chat, completion
from tests.rest_bridge.running import bridge_config, http_client, running_bridge
from tests.support.scripted import Running, ScriptedService, error_info, refuse

UNREACHABLE = "127.0.0.1:1"


async def test_chat_answers(http: httpx.AsyncClient, running: Running) -> None:
    """The reply has text, finish reason, usage, and the caller's name of the model."""
    reply = await http.post(CHAT, json=chat(model="alias", temperature=0))
    body = reply.json()

    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert body["object"] == "chat.completion"
    assert (body["model"], body["created"]) == ("alias", 7)
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["usage"]["total_tokens"] == 5
    assert MessageToDict(running.service.seen[0].request) == {
        "model": "alias",
        "chat": {"messages": [{"role": "ROLE_USER", "content": "hi"}]},
        "sampling": {"temperature": 0.0},
    }


async def test_completions_answer(http: httpx.AsyncClient) -> None:
    """The token ids are included on request."""
    body = (await http.post(COMPLETIONS, json=completion(return_token_ids=True))).json()

    assert body["object"] == "text_completion"
    assert body["choices"] == [
        {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop", "token_ids": [1, 2]}
    ]


@pytest.mark.parametrize("stream", [{}, {"stream": False}, {"stream": None}])
async def test_the_stream_route_always_streams(http: httpx.AsyncClient, stream: dict[str, Any]) -> None:
    """The value of `stream` does not matter."""
    reply = await http.post(COMPLETIONS_STREAM, json=completion(**stream))

    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_ignored_parameters_are_named(http: httpx.AsyncClient, stream: bool) -> None:
    """They are in a header of replies and streams, which is absent if there are none."""
    reply = await http.post(CHAT, json=chat(stream=stream, store=True, tempratur=1))
    plain = await http.post(CHAT, json=chat(stream=stream))

    assert reply.headers["x-ignored-parameters"] == "store,tempratur"
    assert "x-ignored-parameters" not in plain.headers


async def test_strict_refuses_unknown_parameters(running: Running) -> None:
    """With the setting they are a 400 that names the parameter."""
    async with (
        running_bridge(running.target, strict=True) as bridge,
        http_client(bridge.url) as http,
    ):
        refused = await http.post(CHAT, json=chat(tempratur=1))
        accepted = await http.post(CHAT, json=chat(store=True))

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tempratur")
    assert accepted.headers["x-ignored-parameters"] == "store"


async def test_models_are_listed(http: httpx.AsyncClient) -> None:
    """The list has OpenAI's format and further members of this service."""
    body = (await http.get("/v1/models")).json()

    assert body["object"] == "list"
    assert body["data"][0] == {
        "id": "m",
        "object": "model",
        "created": 7,
        "owned_by": "us",
        "root": "m",
        "parent": None,
        "permission": [],
        "aliases": ["alias"],
        "context_length": 64,
        "vocabulary_size": 100,
        "backend": "",
        "max_concurrency": 0,
        "default_max_tokens": 0,
        "max_tokens_limit": 0,
    }


@pytest.mark.parametrize(
    ("path", "model"), [("m", "m"), ("meta%2Fllama", "meta/llama"), ("a/b", "a/b"), ("x%20y", "x y")]
)
async def test_one_model_is_found_by_any_name(
    http: httpx.AsyncClient, running: Running, path: str, model: str
) -> None:
    """The service decides, and names with slashes reach it unchanged."""
    reply = await http.get(f"/v1/models/{path}")

    assert running.service.seen[0].request.model == model
    assert reply.status_code == (200 if model == "m" else 404)


async def test_health_reports_the_service(http: httpx.AsyncClient, running: Running) -> None:
    """The status is 200 with `healthy` or `unhealthy`; liveness depends only on the bridge."""
    good = (await http.get("/health")).json()
    await running.set_health("NOT_SERVING")
    bad = await http.get("/health")

    assert (good["status"], good["backend"]["healthy"]) == ("healthy", True)
    assert (bad.status_code, bad.json()["status"], bad.json()["backend"]["healthy"]) == (
        200,
        "unhealthy",
        False,
    )
    assert (await http.get("/health/live")).status_code == 200


async def test_readiness_follows_the_service(http: httpx.AsyncClient, running: Running) -> None:
    """The status is 200 while requests are accepted, else 503 with a retry time."""
    assert (await http.get("/health/ready")).status_code == 200
    await running.set_health("NOT_SERVING")
    reply = await http.get("/health/ready")

    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "not_ready")
    assert int(reply.headers["retry-after"]) >= 1


async def test_without_a_service_the_bridge_is_not_ready() -> None:
    """Routes that need the service answer 503, and the others answer normally."""
    async with (
        running_bridge(UNREACHABLE, retry_timeout=0.3) as bridge,
        http_client(bridge.url) as http,
    ):
        replies = [
            await http.post(CHAT, json=chat()),
            await http.post(CHAT, json=chat(stream=True)),
            await http.get("/v1/models"),
            await http.get("/health/ready"),
        ]
        health = await http.get("/health")
        live = await http.get("/health/live")

    assert [reply.status_code for reply in replies] == [503] * 4
    assert all("127.0.0.1" not in reply.text for reply in replies)
    assert (health.json()["status"], live.status_code) == ("unhealthy", 200)


async def test_the_request_timeout_ends_the_retries() -> None:
    """An unavailable service is an error before the caller's deadline."""
    began = time.monotonic()
    async with (
        running_bridge(UNREACHABLE, retry_timeout=60) as bridge,
        http_client(bridge.url, headers={"x-request-timeout": "0.3"}) as http,
    ):
        replies = [await http.post(CHAT, json=chat()), await http.post(CHAT, json=chat(stream=True))]

    assert [reply.status_code for reply in replies] == [503] * 2
    assert time.monotonic() - began < 20


def test_a_stream_fails_with_a_status_before_its_first_keepalive() -> None:
    """By default retries end before the head of the reply is sent."""
    config = bridge_config(UNREACHABLE, retry_timeout=BridgeConfig.model_fields["retry_timeout"].default)

    assert 10 <= config.retry_timeout < config.sse_keepalive


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "route_not_found"),
        ("POST", "/v1/chat/completions/", 404, "route_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("HEAD", "/v1/completions", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_errors_of_the_router_have_the_usual_body(
    http: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    """Unknown routes and methods get the usual error body with an id."""
    reply = await http.request(method, path)

    assert reply.status_code == status
    assert reply.headers["x-request-id"]
    if status == 405:
        assert reply.headers["allow"] == "POST" if "completions" in path else "GET"
    if method != "HEAD":
        assert reply.json()["error"]["code"] == code
        assert "detail" not in reply.json()


async def test_head_is_get_without_a_body(http: httpx.AsyncClient) -> None:
    """Some probes use HEAD."""
    head, get = await http.head("/health/live"), await http.get("/health/live")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("given", ["a", "A.b_c:d-9", "x" * 128])
async def test_the_callers_request_id_reaches_the_service_and_the_reply(
    http: httpx.AsyncClient, running: Running, given: str
) -> None:
    for body in (chat(), chat(stream=True), chat(temperature="bad")):
        reply = await http.post(CHAT, json=body, headers={"x-request-id": given})
        assert reply.headers["x-request-id"] == given

    assert [seen.metadata["x-request-id"] for seen in running.service.seen] == [given, given]


@pytest.mark.parametrize("given", [b"", b"with space", "é".encode(), b"x" * 129, b"a/b", b"<script>"])
async def test_an_invalid_request_id_is_replaced_by_a_new_one(http: httpx.AsyncClient, given: bytes) -> None:
    reply = await http.get("/health/live", headers={b"x-request-id": given})

    assert len(reply.headers["x-request-id"]) == 32


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_reaches_the_service(
    http: httpx.AsyncClient, running: Running, stream: bool
) -> None:
    """It is the gRPC deadline of the call; without the header there is none."""
    await http.post(CHAT, json=chat(stream=stream), headers={"x-request-timeout": "12.5"})
    await http.post(CHAT, json=chat(stream=stream))
    with_deadline, without = (seen.time_remaining for seen in running.service.seen)

    assert with_deadline is not None
    assert 5 < with_deadline <= 12.5
    assert without is None or without > 1e6


async def test_the_default_deadline_is_a_setting(running: Running) -> None:
    """It applies to callers that set none."""
    async with (
        running_bridge(running.target, request_timeout=20) as bridge,
        http_client(bridge.url) as http,
    ):
        await http.post(CHAT, json=chat())

    remaining = running.service.seen[0].time_remaining
    assert remaining is not None
    assert 10 < remaining <= 20


@pytest.mark.parametrize(
    "given", ["", "0", "0.0", "-1", "soon", "nan", "inf", "1e3", "5e-324", "3601", "1_0", "9" * 400]
)
async def test_an_invalid_deadline_is_refused(http: httpx.AsyncClient, given: str) -> None:
    """The error is a 400 that names the header."""
    reply = await http.post(CHAT, json=chat(), headers={"x-request-timeout": given})

    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "x-request-timeout")
    assert "decimal" in error["message"], "a number in the range may have a form that is refused"
    assert "(0, 3600]" in error["message"]


@pytest.mark.parametrize("given", ["0.001", "0.0012345678901234567", "3600", "3600.0"])
async def test_every_documented_form_of_a_deadline_is_accepted(http: httpx.AsyncClient, given: str) -> None:
    """It may have many decimals. Whether it is long enough does not matter here."""
    schemas = [
        parameter["schema"]
        for parameter in (await http.get("/openapi.json")).json()["paths"][CHAT]["post"]["parameters"]
        if parameter["name"] == "x-request-timeout"
    ]
    reply = await http.post(CHAT, json=chat(), headers={"x-request-timeout": given})

    assert [(schema["minimum"], schema["maximum"]) for schema in schemas] == [(0.001, 3600)]
    assert reply.status_code in {200, 504}


async def test_the_service_checks_ranges(http: httpx.AsyncClient, service: ScriptedService) -> None:
    """A value of the right type is sent, and the service's error is returned."""

    async def fail(request: Any, context: Any) -> Any:
        assert request.sampling.temperature == 99
        await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "too hot", error_info("INVALID_VALUE"))

    service.answer = fail
    reply = await http.post(CHAT, json=chat(temperature=99))

    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "too hot")


async def test_one_line_is_logged_for_each_request(http: httpx.AsyncClient) -> None:
    """It has id, route, status, time and outcome, but never a text or the key."""
    with structlog.testing.capture_logs() as logs:
        for body in (chat(user="secret"), chat(stream=True), chat(temperature="secret")):
            await http.post(CHAT, json=body, headers={"authorization": "Bearer pg_secret"})
        await http.get("/secret")
    lines = [line for line in logs if line["event"] == "request"]

    assert [(line["route"], line["status"], line["outcome"]) for line in lines] == [
        (CHAT, 200, "ok"),
        (CHAT, 200, "ok"),
        (CHAT, 400, "invalid_value"),
        (None, 404, "route_not_found"),
    ]
    assert all(line["request_id"] and line["ms"] >= 0 for line in lines)
    assert "secret" not in str(logs)


async def test_the_page_and_its_schema_are_served(http: httpx.AsyncClient) -> None:
    """They are at the usual paths, with the project's name."""
    page, schema = await http.get("/docs"), await http.get("/openapi.json")

    assert "Lodestream" in page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert schema.json()["info"]["title"] == "Lodestream"


async def test_the_page_loads_nothing_from_other_hosts(http: httpx.AsyncClient) -> None:
    """Scripts, styles and icon are served by the bridge, and no address in the page names a host."""
    page = (await http.get("/docs")).text
    loaded = re.findall(r"""(?:src|href)="([^"]+)""", page)

    assert not re.search(r"https?:|[\"']//", page)
    assert len(loaded) == 3
    for path in loaded:
        reply = await http.get(path)
        assert (reply.status_code, len(reply.content) > 100) == (200, True), path
