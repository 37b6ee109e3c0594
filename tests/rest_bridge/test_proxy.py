"""The bridge behind proxies: who the caller is, and paths with a prefix."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
import structlog

from lodestream_common.keys import KeyFile
from tests.rest_bridge.bodies import CHAT, chat
from tests.rest_bridge.running import running_bridge
from tests.support.reverse_proxy import reverse_proxy
from tests.support.scripted import Running
from tests.support.transports import running_transports

CALLER = "203.0.113.9"


@asynccontextmanager
async def caller(url: str, source: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client whose requests come from this address."""
    transport = httpx.AsyncHTTPTransport(local_address=source)
    async with httpx.AsyncClient(base_url=url, transport=transport, timeout=30) as http:
        yield http


async def logged_client(http: httpx.AsyncClient, headers: Mapping[str, str]) -> Any:
    """The address in the log line of a request with these headers."""
    with structlog.testing.capture_logs() as lines:
        reply = await http.post(CHAT, json=chat(), headers=dict(headers))
    assert reply.status_code == 200
    (line,) = [line for line in lines if line["event"] == "request"]
    return line["client"]


@pytest.mark.parametrize(
    ("trusted", "client"),
    [((), "127.0.0.1"), (("10.0.0.0/8", "::1"), "127.0.0.1"), (("127.0.0.0/8",), CALLER)],
)
async def test_headers_count_only_from_a_trusted_peer(
    running: Running, trusted: tuple[str, ...], client: str
) -> None:
    async with running_bridge(running.target, trusted_proxies=trusted) as bridge, caller(bridge.url) as http:
        assert await logged_client(http, {"x-forwarded-for": CALLER}) == client
        assert await logged_client(http, {"forwarded": f"for={CALLER};proto=https"}) == client
        assert await logged_client(http, {"x-forwarded-for": "garbage, <script>"}) == "127.0.0.1"


async def test_two_proxies_and_a_caller_that_lies(running: Running) -> None:
    """The caller claims another address; each proxy appends what it sees."""
    async with (
        running_bridge(running.target, trusted_proxies=("127.0.0.2", "127.0.0.3")) as bridge,
        reverse_proxy(bridge.url, source="127.0.0.3") as inner,
        reverse_proxy(inner, source="127.0.0.2") as outer,
        caller(outer, "127.0.0.9") as http,
        caller(bridge.url, "127.0.0.9") as direct,
    ):
        assert await logged_client(http, {"x-forwarded-for": "127.0.0.2, 198.51.100.1"}) == "127.0.0.9"
        assert await logged_client(direct, {"x-forwarded-for": "198.51.100.1"}) == "127.0.0.9"


async def test_ipv6(running: Running) -> None:
    async with (
        running_bridge(running.target, http_address="[::1]:0", trusted_proxies=("::1",)) as bridge,
        caller(bridge.url, "::1") as http,
    ):
        found = await logged_client(http, {"x-forwarded-for": "[2001:db8::7]:4711", "host": "localhost"})

    assert found == "2001:db8::7"


async def test_failed_keys_count_by_the_caller_behind_the_proxy(running: Running, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    keys.create("alice")
    settings: dict[str, Any] = {"keys_file": keys.path, "trusted_proxies": ("127.0.0.1",)}
    async with running_bridge(running.target, **settings) as bridge, caller(bridge.url) as http:
        for address in ("203.0.113.1", "203.0.113.2", "203.0.113.2"):
            header = {"authorization": "Bearer pg_wrong", "x-forwarded-for": address}
            assert (await http.post(CHAT, json=chat(), headers=header)).status_code == 401
        app: Any = bridge.server.config.app

    assert sorted(app.state.bridge.failed_keys._due) == ["203.0.113.1", "203.0.113.2"]


async def test_the_host_that_a_trusted_proxy_reports_is_checked(running: Running) -> None:
    """Without keys a foreign name is refused, also behind a proxy, unless it is allowed."""
    settings: dict[str, Any] = {"trusted_proxies": ("127.0.0.1",), "allowed_hosts": "llm.example"}
    async with running_bridge(running.target, **settings) as bridge, caller(bridge.url) as http:
        statuses = [
            (await http.post(CHAT, json=chat(), headers={"x-forwarded-host": host})).status_code
            for host in ("llm.example", "rebound.example", "llm.example, rebound.example")
        ]

    assert statuses == [200, 403, 403]


async def test_the_service_logs_the_same_caller_if_it_trusts_the_bridge() -> None:
    trusted = ("127.0.0.1",)
    body = {"model": "smollm2-135m-instruct", "prompt": "hi", "max_tokens": 1}
    for service, expected in ((trusted, CALLER), ((), "127.0.0.1")):
        with structlog.testing.capture_logs() as lines:
            async with running_transports({"trusted_proxies": trusted}, trusted_proxies=service) as pair:
                headers = {"x-forwarded-for": CALLER}
                await pair.http.post("/v1/completions", json=body, headers=headers)
        clients = {line["event"]: line["client"] for line in lines if line["event"] in ("request", "rpc")}
        assert clients == {"request": CALLER, "rpc": expected}


@pytest.mark.parametrize("strips", [True, False])
async def test_everything_works_below_a_prefix(running: Running, strips: bool) -> None:
    """The API, its description, /docs and the playground with all that they load."""
    async with (
        running_bridge(running.target, root_path="/llm") as bridge,
        reverse_proxy(bridge.url, prefix="/llm", strips=strips) as outer,
        caller(outer) as http,
    ):
        with structlog.testing.capture_logs() as lines:
            assert (await http.post(f"/llm{CHAT}", json=chat())).status_code == 200
        schema = (await http.get("/llm/openapi.json")).json()
        for page in ("/llm/", "/llm/docs"):
            text = (await http.get(page)).text
            found = re.findall(r"""(?:href|src)="([^"#]+)"|url: ['"]([^'"]+)""", text)
            linked = {urljoin(page, one or other) for one, other in found}
            assert len(linked) >= 3
            assert {path for path in linked if not path.startswith("/llm/")} == set()
            assert {(await http.get(path)).status_code for path in linked} == {200}
        parameters = await http.get("/llm/playground/parameters.json")
        missing = await http.get("/llm/nothing")

    assert schema["servers"][0]["url"] == "/llm"
    assert CHAT in schema["paths"]
    assert (parameters.status_code, missing.status_code) == (200, 404)
    assert [line["route"] for line in lines if line["event"] == "request"] == [CHAT]


async def test_without_cors_origin_a_page_of_another_site_gets_no_cors_header(running: Running) -> None:
    page = {"origin": "https://chat.example.org"}
    preflight = {**page, "access-control-request-method": "POST"}
    async with running_bridge(running.target) as bridge, caller(bridge.url) as http:
        closed = await http.options(CHAT, headers=preflight)
    settings: dict[str, Any] = {"cors_origin": ("https://chat.example.org", "https://other.example")}
    with structlog.testing.capture_logs() as lines:
        async with running_bridge(running.target, **settings) as bridge, caller(bridge.url) as http:
            opened = await http.options(CHAT, headers=preflight)
            foreign = await http.options(CHAT, headers={**preflight, "origin": "https://foreign.example"})

    assert "access-control-allow-origin" not in closed.headers
    assert opened.headers["access-control-allow-origin"] == "https://chat.example.org"
    assert (opened.status_code, foreign.status_code) == (200, 400)
    found = [(line["method"], line["status"], line["client"]) for line in lines if line["event"] == "request"]
    assert found == [("OPTIONS", 200, "127.0.0.1"), ("OPTIONS", 400, "127.0.0.1")]
    assert opened.headers["x-request-id"]
