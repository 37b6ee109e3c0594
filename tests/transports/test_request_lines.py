"""The log lines of requests as both servers write them, against the fields that docs/logs.md describes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from inference_client import AsyncClient, InferenceError
from lodestream_common.keys import KeyFile, KeyLimits, Level
from tests.support.messages import grpc_request
from tests.support.processes import server_process
from tests.support.service import MODEL_ID, connect

PLAIN = "/v1/completions"
DOCUMENT = Path(__file__).parents[2] / "docs" / "logs.md"
RULES = '[[rules]]\nname = "heron"\nphrases = ["heron"]\naction = "redact"\n'
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "list": (list,),
    "null": (type(None),),
}

Line = Mapping[str, Any]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the document."""

    name: str
    servers: frozenset[str]
    types: tuple[type, ...]
    is_always: bool


def documented() -> list[Field]:
    """The rows of the tables of fields: those of request lines, and those of every line."""
    fields = []
    before, _, after = DOCUMENT.read_text().partition("\n## Events\n")
    for row in (before + after.partition("\n## ")[2]).splitlines():
        if not row.startswith("| `"):
            continue
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        name, present = cells[0].strip("`"), cells[-2]
        where, kinds = (cells[1], cells[2]) if len(cells) == 5 else ("—", cells[1])
        servers = frozenset({"service", "bridge"} if where == "—" else {where})
        types = tuple(kind for word in kinds.split(" or ") for kind in TYPES[word])
        fields.append(Field(name, servers, types, present == "always"))
    return fields


def body(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL_ID, "prompt": "hello world", "max_tokens": 4, **changes}


@dataclass(frozen=True, slots=True)
class Pair:
    """Both servers as processes, and callers with keys of three kinds."""

    http: httpx.AsyncClient
    client: AsyncClient
    address: str
    """Of the service."""
    keys: Mapping[str, str]
    logs: Path

    def lines(self) -> list[Line]:
        """The request lines of both servers so far, without probes."""
        written = [json.loads(line) for line in self.logs.read_text().splitlines()]
        return [line for line in written if line["event"] in ("request", "rpc") and "request_id" in line]

    def of(self, request_id: str) -> dict[str, Line]:
        """The lines of one request, by server."""
        return {line["server"]: line for line in self.lines() if line["request_id"] == request_id}

    def bearer(self, name: str, request_id: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[name]}", "x-request-id": request_id}


@asynccontextmanager
async def logging_pair(home: Path) -> AsyncIterator[Pair]:
    """Serve until the context ends; both write their lines to one file."""
    file = KeyFile(home / "keys.json")
    tokens = {
        "alice": file.create("alice")[1],
        "reader": file.create("reader", Level.READ_ONLY)[1],
        "gone": file.create("gone")[1],
        "spent": file.create("spent", limits=KeyLimits(requests_per_minute=1))[1],
    }
    file.revoke("gone")
    rules, logs = home / "rules.toml", home / "lines"
    rules.write_text(RULES)
    # The sample keeps all lines, and is in those of successful requests.
    common = {
        "log_level": "info",
        "log_format": "json",
        "log_sample": "ok=0.999999999",
        "keys_file": file.path,
    }
    with logs.open("ab") as target:
        service = server_process(
            "serve",
            home,
            target.fileno(),
            backend="simulated",
            model=MODEL_ID,
            grpc_address="127.0.0.1:0",
            content_filter_file=rules,
            **common,
        )
        async with service as serving:
            bridge = server_process(
                "bridge",
                home,
                target.fileno(),
                grpc_address=serving.address,
                http_address="127.0.0.1:0",
                max_body_bytes=10_000,
                **common,
            )
            async with (
                bridge as bridging,
                httpx.AsyncClient(base_url=f"http://{bridging.address}", timeout=30) as http,
                AsyncClient(serving.address, retries=0) as client,
            ):
                yield Pair(http, client, serving.address, tokens, logs)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with logging_pair(tmp_path_factory.mktemp("logs")) as pair:
        yield pair


async def settled(pair: Pair, request_id: str, *servers: str) -> dict[str, Line]:
    """The lines of a request, once these servers have written theirs."""
    for _ in range(200):
        found = pair.of(request_id)
        if set(servers) <= set(found):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{request_id}: only {found}")


async def test_a_success_is_a_line_with_key_model_client_and_route(pair: Pair) -> None:
    reply = await pair.http.post(PLAIN, json=body(user="u7"), headers=pair.bearer("alice", "fine"))
    assert reply.status_code == 200
    lines = await settled(pair, "fine", "bridge", "service")

    for line in lines.values():
        assert (line["key"], line["client"], line["model"]) == ("alice", "127.0.0.1", MODEL_ID)
        assert line["key_id"].startswith("key_")
        assert line["outcome"] == "ok"
    assert (lines["bridge"]["route"], lines["bridge"]["method"]) == (PLAIN, "POST")
    assert lines["service"]["method"] == "GenerateStream"


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that the bridge refuses, and what its line says."""

    key: str | None
    request: Mapping[str, Any]
    """Arguments of httpx; a POST of a completion where they say no other."""
    route: str | None
    model: str | None
    status: int
    outcome: str


def post(**changes: Any) -> dict[str, Any]:
    return {"json": body(**changes)}


REFUSALS = {
    "no-key": Refused(None, post(), PLAIN, None, 401, "invalid_api_key"),
    "revoked-key": Refused("gone", post(), PLAIN, None, 401, "invalid_api_key"),
    "low-level": Refused("reader", post(), PLAIN, None, 403, "insufficient_scope"),
    "no-route": Refused("alice", {"url": "/v1/nothing"}, None, None, 404, "route_not_found"),
    "wrong-method": Refused("alice", {"method": "DELETE"}, PLAIN, None, 405, "method_not_allowed"),
    "no-model": Refused("alice", post(model="other"), PLAIN, "other", 404, "model_not_found"),
    "unsafe-model": Refused("alice", post(model="a secret\n"), PLAIN, None, 404, "model_not_found"),
    "too-large": Refused("alice", post(prompt="a" * 20_000), PLAIN, None, 413, "request_too_large"),
    "wrong-coding": Refused(
        "alice",
        {"content": b"x", "headers": {"content-encoding": "br"}},
        PLAIN,
        None,
        415,
        "unsupported_content_encoding",
    ),
    "wrong-value": Refused("alice", post(temperature=99), PLAIN, MODEL_ID, 400, "invalid_value"),
    "spent-quota": Refused("spent", post(), PLAIN, MODEL_ID, 429, "rate_limit_exceeded"),
}


async def send(pair: Pair, key: str | None, request_id: str, request: Mapping[str, Any]) -> None:
    arguments: dict[str, Any] = {"method": "POST", "url": PLAIN, **request}
    headers = pair.bearer(key, request_id) if key else {"x-request-id": request_id}
    arguments["headers"] = {**headers, **request.get("headers", {})}
    await pair.http.request(**arguments)


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_is_a_line_too_and_never_a_traceback(pair: Pair, name: str) -> None:
    case = REFUSALS[name]
    if case.key == "spent":
        await send(pair, case.key, "within-the-quota", case.request)
    await send(pair, case.key, name, case.request)
    line = (await settled(pair, name, "bridge"))["bridge"]

    found = Refused(line["key"], case.request, line["route"], line["model"], line["status"], line["outcome"])
    assert found == case
    assert (line["client"], line["level"]) == ("127.0.0.1", "info")
    written = pair.logs.read_text()
    assert "Traceback" not in written
    assert "a secret" not in written


async def test_refusals_of_the_service_name_key_client_and_model(pair: Pair) -> None:
    cases = {
        "grpc-no-key": (None, body(), None, "invalid_api_key"),
        "grpc-level": ("reader", body(), None, "insufficient_scope"),
        "grpc-model": ("alice", body(model="other"), "other", "model_not_found"),
    }
    for request_id, (key, request, model, outcome) in cases.items():
        token = pair.keys[key] if key else None
        with pytest.raises(InferenceError):
            await pair.client.generate_request(grpc_request(request), request_id=request_id, api_key=token)
        line = (await settled(pair, request_id, "service"))["service"]
        assert (line["key"], line["model"], line["outcome"]) == (key, model, outcome)
        assert line["client"] == "127.0.0.1"


async def test_an_unknown_rpc_is_a_line(pair: Pair) -> None:
    async with connect(pair.address) as channel:
        call: Any = channel.unary_unary("/lodestream.inference.v1.GenerateService/Nothing")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"", metadata=(("x-request-id", "nothing"),), timeout=20)

    line = (await settled(pair, "nothing", "service"))["service"]
    assert (line["method"], line["outcome"], line["client"]) == ("unknown", "route_not_found", "127.0.0.1")


async def test_an_aborted_request_is_a_line_on_both(pair: Pair) -> None:
    request = body(prompt="@sim(stall_at=2)", max_tokens=50)
    task = asyncio.create_task(pair.http.post(PLAIN, json=request, headers=pair.bearer("alice", "left")))
    await asyncio.sleep(0.5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    lines = await settled(pair, "left", "bridge", "service")

    assert (lines["bridge"]["outcome"], lines["bridge"]["status"]) == ("client_gone", 499)
    assert lines["service"]["outcome"] == "cancelled"
    assert {line["model"] for line in lines.values()} == {MODEL_ID}


async def test_malformed_http_is_a_line(pair: Pair) -> None:
    reader, writer = await asyncio.open_connection(pair.http.base_url.host, pair.http.base_url.port)
    writer.write(b"NONSENSE\r\n\r\n")
    head = (await reader.read()).decode()
    writer.close()
    found = re.search(r"x-request-id: (\S+)", head)
    assert found

    line = (await settled(pair, found[1], "bridge"))["bridge"]
    assert (line["status"], line["method"], line["route"], line["client"]) == (400, None, None, "127.0.0.1")


async def test_the_documented_fields_are_those_in_the_lines(pair: Pair) -> None:
    """After the requests above, and one whose answer the filter changed."""
    await pair.http.post(
        PLAIN, json=body(prompt="a heron", user="u"), headers=pair.bearer("alice", "redacted")
    )
    await settled(pair, "redacted", "bridge", "service")
    fields = documented()

    for server in ("bridge", "service"):
        lines = [line for line in pair.lines() if line["server"] == server]
        known = {field.name: field for field in fields if server in field.servers}
        assert set().union(*lines) == set(known) - {"trace_id", "exception"}
        for line in lines:
            assert {name for name, field in known.items() if field.is_always} <= set(line)
            wrong = {name: value for name, value in line.items() if not isinstance(value, known[name].types)}
            assert not wrong
