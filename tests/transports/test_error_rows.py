"""Every row of the error table, produced by a real request over each transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from inference_service import errors
from inference_service.rpc import status
from lodestream_common.keys import KeyFile, Level
from tests.support.service import MODEL_ID
from tests.support.transports import Transports, grpc_request, running_transports

Ask = Mapping[str, Any]


def ask(text: str = "hello", **members: Any) -> dict[str, Any]:
    return {"model": MODEL_ID, "prompt": text, **members}


@dataclass(frozen=True, slots=True)
class Row:
    """A cause of an error, and the expected error over both transports."""

    code: str
    grpc_code: grpc.StatusCode
    http: int
    kind: str
    service: Mapping[str, Any] = field(default_factory=dict)
    request: Ask = field(default_factory=ask)
    level: Level | None = None
    """The level of the key that is sent; None sends no key."""
    timeout: float | None = None
    before: Callable[[Transports], Awaitable[None]] | None = None
    waits: bool = False
    """Whether the error says when to retry."""


async def _fill(transports: Transports) -> None:
    """Occupy the only slot permanently."""
    call = transports.service.generate_stub.GenerateStream(grpc_request(ask("@sim(stall_at=0)")))
    assert await call.read() is not grpc.aio.EOF


async def _kill_engine(transports: Transports) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await transports.service.generate_stub.Generate(grpc_request(ask("@sim(die_at=0)")))


async def _spend(transports: Transports) -> None:
    metadata = (("authorization", f"Bearer {transports.headers['key']}"),)
    await transports.service.generate_stub.Generate(grpc_request(ask()), metadata=metadata)


_Code = grpc.StatusCode
_INVALID = "invalid_request_error"
_WITH_KEYS = {"with_keys": True}
ROWS = [
    Row("invalid_value", _Code.INVALID_ARGUMENT, 400, _INVALID, request=ask(temperature=3)),
    Row("missing_required_parameter", _Code.INVALID_ARGUMENT, 400, _INVALID, request={"prompt": "x"}),
    Row(
        "context_length_exceeded",
        _Code.INVALID_ARGUMENT,
        400,
        _INVALID,
        request={**ask(), "prompt": [7] * 9000},
    ),
    Row(
        "request_too_large",
        _Code.RESOURCE_EXHAUSTED,
        413,
        _INVALID,
        {"max_message_bytes": 2000},
        ask("x" * 2500),
    ),
    Row("invalid_api_key", _Code.UNAUTHENTICATED, 401, "authentication_error", _WITH_KEYS),
    Row(
        "insufficient_scope",
        _Code.PERMISSION_DENIED,
        403,
        "permission_error",
        _WITH_KEYS,
        level=Level.READ_ONLY,
    ),
    Row("model_not_found", _Code.NOT_FOUND, 404, _INVALID, request={**ask(), "model": "gpt-9"}),
    Row(
        "rate_limit_exceeded",
        _Code.RESOURCE_EXHAUSTED,
        429,
        "rate_limit_error",
        {**_WITH_KEYS, "requests_per_minute": 1},
        level=Level.READ_WRITE,
        before=_spend,
        waits=True,
    ),
    Row(
        "queue_full",
        _Code.RESOURCE_EXHAUSTED,
        429,
        "overloaded_error",
        {"max_concurrency": 1, "queue_limit": 0},
        before=_fill,
        waits=True,
    ),
    Row("not_ready", _Code.UNAVAILABLE, 503, "server_error", before=_kill_engine, waits=True),
    Row(
        "deadline_exceeded",
        _Code.DEADLINE_EXCEEDED,
        504,
        "timeout_error",
        request=ask("@sim(stall_at=0)"),
        timeout=0.5,
    ),
    Row("internal_error", _Code.INTERNAL, 500, "server_error", request=ask("@sim(fail_at=2)")),
]


CAUSED_BY_ENGINE = (
    "context_length_exceeded",
    "queue_full",
    "not_ready",
    "deadline_exceeded",
    "internal_error",
)
"""Rows whose cause is in the engine; these are also tested with a compiled engine."""


CASES = [pytest.param(row, "simulated", id=row.code) for row in ROWS] + [
    pytest.param(row, "tensorrt_llm", id=f"{row.code}-tensorrt_llm")
    for row in ROWS
    if row.code in CAUSED_BY_ENGINE
]


@pytest.fixture
def engine(request: pytest.FixtureRequest, backend: str) -> Mapping[str, Any]:
    if backend == "simulated":
        return {"backend": backend}
    settings: Mapping[str, Any] = request.getfixturevalue("serve_engine")()
    return settings


def test_every_error_of_a_generation_has_a_row() -> None:
    """Every reason for which the service can refuse a generation is tested here."""
    reasons = {row.reason.lower() for row in status.TABLE.values()} | {"internal_error"}
    of_others = (
        errors.ReaderStalled,
        errors.RequestTimeout,
        errors.UnknownMethod,
        errors.ReceiptNotFound,
        errors.Aborted,
    )
    elsewhere = {status.TABLE[error].reason for error in of_others}

    assert reasons - {reason.lower() for reason in elsewhere} <= {row.code for row in ROWS}


@pytest.mark.parametrize(("row", "backend"), CASES)
async def test_each_error_over_each_transport(row: Row, engine: Mapping[str, Any], tmp_path: Path) -> None:
    """Check the gRPC status with its ErrorInfo and the HTTP status with its body, whole and streamed."""
    settings = {**engine, **{name: value for name, value in row.service.items() if name != "with_keys"}}
    key = ""
    if row.service.get("with_keys"):
        _, key = KeyFile(tmp_path / "keys.json").create("tests", row.level or Level.READ_WRITE)
        settings["keys_file"] = tmp_path / "keys.json"
    limit = settings.get("max_message_bytes", 4 * 1024 * 1024)
    async with running_transports({"max_body_bytes": limit}, **settings) as transports:
        keyed = Transports(
            transports.client, transports.http, transports.service, transports.url, {"key": key}
        )
        if row.before is not None:
            await row.before(keyed)

        await _check_grpc(row, keyed, sent=key if row.level else "")
        for stream in (False, True):
            await _check_rest(row, keyed, stream, sent=key if row.level else "")


async def _check_grpc(row: Row, transports: Transports, sent: str) -> None:
    metadata = (("authorization", f"Bearer {sent}"),) if sent else ()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transports.service.generate_stub.Generate(
            grpc_request(row.request), metadata=metadata, timeout=row.timeout
        )
    details = {d.type_url.rpartition(".")[2]: d for d in rpc_status.from_call(caught.value).details}  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    details["ErrorInfo"].Unpack(info)

    assert caught.value.code() is row.grpc_code
    assert (info.reason.lower(), info.domain) == (row.code, "lodestream.inference.v1")
    assert ("RetryInfo" in details) is row.waits


async def _check_rest(row: Row, transports: Transports, stream: bool, sent: str) -> None:
    headers = {"x-request-id": "row-1"}
    headers |= {"authorization": f"Bearer {sent}"} if sent else {}
    headers |= {"x-request-timeout": str(row.timeout)} if row.timeout else {}
    body = {**row.request, "stream": stream}
    reply = await asyncio.wait_for(transports.http.post("/v1/completions", json=body, headers=headers), 30)
    if row.code == "internal_error" and stream:
        assert _last_event(reply.text)["error"]["code"] == row.code
        return
    error = reply.json()["error"]

    assert (reply.status_code, error["type"], error["code"]) == (row.http, row.kind, row.code)
    assert set(error) == {"message", "type", "param", "code"}
    assert ("retry-after" in reply.headers) is row.waits
    assert reply.headers["x-request-id"] == "row-1"


def _last_event(text: str) -> dict[str, Any]:
    import json

    assert "[DONE]" not in text
    event: dict[str, Any] = json.loads(text.strip().rpartition("data: ")[2])
    return event
