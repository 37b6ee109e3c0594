"""Web pages that call a server on the loopback interface of the person who views them.

Before, an open bridge answered 200 to all of these: to a page of any site that posts without a content type
(no preflight), and under any host name that resolves to 127.0.0.1 (DNS rebinding), whose page then reads the
answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lodestream_common.keys import KeyFile, Level
from tests.rest_bridge.bodies import CHAT, chat
from tests.rest_bridge.running import RunningBridge, running_bridge
from tests.support.scripted import ScriptedService, serve

SITE = "https://chat.example.org"


@pytest.fixture
async def service() -> AsyncIterator[str]:
    async with serve(ScriptedService()) as running:
        yield running.target


@pytest.fixture
async def bridge(service: str) -> AsyncIterator[RunningBridge]:
    """A bridge without keys that allows only loopback hosts and origins."""
    async with running_bridge(service) as bridge:
        yield bridge


async def post(bridge: RunningBridge, **headers: str) -> httpx.Response:
    """Send a request without a content type, which a page may send to any site without a preflight."""
    async with httpx.AsyncClient(base_url=bridge.url, trust_env=False) as http:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await http.post(CHAT, content=_content(), headers=sent)


def _content() -> bytes:
    return httpx.Request("POST", "http://x", json=chat()).content


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "attacker.example:8000", "127.0.0.1.attacker.example", "localhost.attacker.example",
     "10.0.0.1", "[2001:db8::1]:80", "0.0.0.0", "2130706433"],
)  # fmt: skip
async def test_foreign_host_names_are_refused(bridge: RunningBridge, host: str) -> None:
    reply = await post(bridge, host=host)

    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "host_not_allowed")
    assert "--allowed-hosts" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/docs", "/openapi.json", "/nowhere"])
async def test_every_route_refuses_foreign_host_names(bridge: RunningBridge, path: str) -> None:
    async with httpx.AsyncClient(base_url=bridge.url, trust_env=False) as http:
        assert (await http.get(path, headers={"host": "attacker.example"})).status_code == 403


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "localhost.", "app.localhost:80", "127.0.0.1", "127.8.9.1:8000", "[::1]:80"],
)  # fmt: skip
async def test_loopback_host_names_are_accepted(bridge: RunningBridge, host: str) -> None:
    assert (await post(bridge, host=host)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://attacker.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": "https://attacker.example", "sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "same-site"},
        # A form that is submitted into a frame.
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ],
)
async def test_pages_of_other_sites_are_refused(bridge: RunningBridge, headers: dict[str, str]) -> None:
    reply = await post(bridge, **headers)

    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "origin_not_allowed")


async def test_the_preflight_of_another_site_is_refused(bridge: RunningBridge) -> None:
    async with httpx.AsyncClient(base_url=bridge.url, trust_env=False) as http:
        headers = {"origin": SITE, "access-control-request-method": "POST"}
        reply = await http.options(CHAT, headers=headers)

    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


async def test_own_pages_and_links_from_other_sites_are_accepted(bridge: RunningBridge) -> None:
    """/docs sends requests to its own server, and other sites may link to /docs."""
    assert (await post(bridge, origin=bridge.url, sec_fetch_site="same-origin")).status_code == 200
    assert (await post(bridge, sec_fetch_site="none")).status_code == 200
    async with httpx.AsyncClient(base_url=bridge.url, trust_env=False) as http:
        followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert (await http.get("/docs", headers=followed)).status_code == 200


async def test_allowed_hosts_and_origins_are_accepted(service: str) -> None:
    """A listed host name is accepted, and a page of a listed origin can read answers and errors."""
    allowed: dict[str, Any] = {"allowed_hosts": "proxy.example, other", "cors_origin": (SITE, "null")}
    async with (
        running_bridge(service, **allowed) as bridge,
        httpx.AsyncClient(base_url=bridge.url, trust_env=False) as http,
    ):
        assert (await post(bridge, host="proxy.example:443")).status_code == 200
        answered = await post(bridge, origin=SITE, sec_fetch_site="cross-site")
        refused = await http.post(CHAT, json={}, headers={"origin": SITE})
        preflight = await http.options(
            CHAT,
            headers={
                "origin": SITE,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type",
            },
        )
        foreign = await post(bridge, origin="https://attacker.example")

    assert (answered.status_code, refused.status_code, preflight.status_code) == (200, 400, 200)
    for reply in (answered, refused, preflight):
        assert reply.headers["access-control-allow-origin"] == SITE
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    assert foreign.status_code == 403
    assert "access-control-allow-origin" not in foreign.headers


async def test_with_keys_hosts_and_origins_are_not_checked(service: str, tmp_path: Path) -> None:
    """A page has no key, and a caller with a key may use any host name and origin."""
    _, token = KeyFile(tmp_path / "keys.json").create("alice", Level.READ_WRITE)
    async with running_bridge(service, keys_file=tmp_path / "keys.json") as bridge:
        foreign = {"host": "api.example.org", "origin": SITE}
        assert (await post(bridge, **foreign)).status_code == 401
        assert (await post(bridge, authorization=f"Bearer {token}", **foreign)).status_code == 200
