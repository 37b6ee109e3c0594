"""Requests that are refused before they are parsed: a status with details, and one log line."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import model_service_pb2 as model_pb
from lodestream.inference.v1 import usage_service_pb2 as usage_pb
from structlog.testing import capture_logs

from lodestream_common.keys import ApiKey, KeyFile, Level
from tests.support.calls import TIMEOUT_SECONDS, ask, eventually, is_free, refusal
from tests.support.service import Running, running_service
from tests.support.statuses import ReceivedStatus

Code = grpc.StatusCode
METHODS = [
    f"/lodestream.inference.v1.{service.name}/{method.name}"
    for file in (generate_pb.DESCRIPTOR, model_pb.DESCRIPTOR, usage_pb.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
]
"""Every method of our services."""

NO_MESSAGE = {
    "no message at all": b"\xff\xff\xff\xff",
    "a length beyond the end": b"\x0a\x7fshort",
    "a group without an end": b"\x0b",
}
NO_UTF8 = b"\x0a\x02\xc3\x28"
"""Field 1, which is a string in every request that has it, with invalid UTF-8."""


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[Sequence[logging.LogRecord]]:
    """Check that libraries log no error during the test."""
    with caplog.at_level(logging.WARNING):
        yield caplog.records
    assert [record.getMessage() for record in caplog.records] == []


@asynccontextmanager
async def logged(**settings: Any) -> AsyncIterator[tuple[Running, list[Mapping[str, Any]]]]:
    """A service and all its log lines at the default level."""
    lines: list[Mapping[str, Any]] = []
    with capture_logs() as captured:
        async with running_service(**settings) as service:
            captured.clear()
            yield service, lines
            await eventually(lambda: is_free(service))
            lines += [line for line in captured if line["log_level"] != "debug"]


def bearing(token: str) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(("authorization", f"Bearer {token}"))


async def send(
    service: Running, method: str, messages: Sequence[bytes], metadata: grpc.aio.Metadata | None = None
) -> ReceivedStatus:
    """Send bytes as messages, then half-close. Return the status of the error."""
    bare: Any = service.channel.stream_stream(method)
    return await refusal(bare(iter(messages), metadata=metadata, timeout=TIMEOUT_SECONDS))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NO_MESSAGE)
async def test_bytes_that_are_no_message_are_an_invalid_argument(
    method: str, name: str, errors: Sequence[logging.LogRecord]
) -> None:
    async with logged() as (service, lines):
        status = await send(service, method, [NO_MESSAGE[name]])

    assert (status.code, status.reason) == (Code.INVALID_ARGUMENT, "INVALID_VALUE")
    assert len(status.all_of(details_pb.BadRequest)) == 1
    assert "protobuf" in status.message
    assert [(line["event"], line["log_level"], line["outcome"]) for line in lines] == [
        ("rpc", "info", "invalid_value")
    ]


@pytest.mark.parametrize("method", [m for m in METHODS if not m.endswith("ListModels")])
async def test_a_string_that_is_no_utf8_is_an_invalid_argument(
    method: str, errors: Sequence[logging.LogRecord]
) -> None:
    async with logged() as (service, lines):
        status = await send(service, method, [NO_UTF8])

    assert (status.code, status.reason) == (Code.INVALID_ARGUMENT, "INVALID_VALUE")
    assert [line["outcome"] for line in lines] == ["invalid_value"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_that_ends_without_a_message_is_answered(
    method: str, errors: Sequence[logging.LogRecord]
) -> None:
    async with logged() as (service, lines):
        status = await send(service, method, [])

    assert (status.code, status.reason) == (Code.INVALID_ARGUMENT, "MISSING_REQUIRED_PARAMETER")
    assert [line["outcome"] for line in lines] == ["missing_required_parameter"]


@pytest.mark.parametrize("method", METHODS)
async def test_the_key_is_checked_before_the_message(
    method: str, keys: KeyFile, errors: Sequence[logging.LogRecord]
) -> None:
    keys.create("alice")
    async with logged(keys_file=keys.path) as (service, lines):
        for messages in ([b"\xff\xff\xff\xff"], []):
            status = await send(service, method, messages)
            assert (status.code, status.reason) == (Code.UNAUTHENTICATED, "INVALID_API_KEY")

    assert [line["outcome"] for line in lines] == ["invalid_api_key"] * 2


async def test_every_refusal_is_one_line_with_the_id_of_its_key(
    keys: KeyFile, errors: Sequence[logging.LogRecord]
) -> None:
    """This holds for streamed and whole answers and each reason; no refusal is logged as an error."""
    tokens, ids = _three_keys(keys)
    async with logged(keys_file=keys.path, requests_per_minute=1) as (service, lines):
        for token in (None, "pg_unknown", tokens["revoked"], tokens["reader"]):
            for call in _both_ways(service, None if token is None else bearing(token)):
                await refusal(call)
        await service.generate_stub.Generate(ask(), metadata=bearing(tokens["writer"]))
        for call in _both_ways(service, bearing(tokens["writer"])):
            await refusal(call)

    assert all((line["event"], line["log_level"]) == ("rpc", "info") for line in lines)
    assert [(line["outcome"], line["key_id"]) for line in lines] == [
        *[("invalid_api_key", None)] * 4,
        *[("invalid_api_key", ids["revoked"])] * 2,
        *[("insufficient_scope", ids["reader"])] * 2,
        ("ok", ids["writer"]),
        *[("rate_limit_exceeded", ids["writer"])] * 2,
    ]
    assert not any(token in str(lines) for token in tokens.values())


async def test_refusals_of_foreign_services_are_lines_too(
    keys: KeyFile, errors: Sequence[logging.LogRecord]
) -> None:
    keys.create("alice")
    async with logged(keys_file=keys.path) as (service, lines):
        channel: Any = service.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        await refusal(stub.ServerReflectionInfo(iter([question])))
        unknown: Any = service.channel.unary_unary("/lodestream.inference.v1.GenerateService/Unknown")
        await refusal(unknown(generate_pb.GenerateRequest().SerializeToString()))

    assert [(line["event"], line["log_level"], line["outcome"]) for line in lines] == [
        ("rpc", "info", "invalid_api_key"),
        ("rpc", "info", "route_not_found"),
    ]


def _three_keys(keys: KeyFile) -> tuple[dict[str, str], dict[str, str]]:
    """The tokens and the ids of the keys by their names."""
    tokens, ids = {}, {}
    for name, level in (
        ("reader", Level.READ_ONLY),
        ("writer", Level.READ_WRITE),
        ("revoked", Level.READ_WRITE),
    ):
        key: ApiKey
        key, tokens[name] = keys.create(name, level)
        ids[name] = key.id
    keys.revoke("revoked")
    return tokens, ids


def _both_ways(service: Running, metadata: grpc.aio.Metadata | None) -> list[Any]:
    stub = service.generate_stub
    return [stub.Generate(ask(), metadata=metadata), stub.GenerateStream(ask(), metadata=metadata)]
