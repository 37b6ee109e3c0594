"""Connections to the gRPC port that stay open without making a call.

Before, a silent connection stayed for the core's 120 seconds. A connection after its handshake, and a call
whose message never came, stayed without end. Now the first ends after the header timeout, the second after 75
idle seconds, the third after the body timeout, and the settings limit the number of connections.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from lodestream.inference.v1 import generate_service_pb2 as pb
from lodestream.inference.v1.generate_service_pb2_grpc import GenerateServiceStub

from inference_client import AsyncClient
from inference_service.rpc import connections
from tests.rest_bridge.wire import connect
from tests.support.service import MODEL_ID, running_service
from tests.support.service import connect as connect_grpc
from tests.support.statuses import read_status

TIMEOUT_SECONDS = 15.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HANDSHAKE = PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\4\1\0\0\0\0"
"""The preface, our SETTINGS frame, and the acknowledgement of the server's settings."""
OPEN_HEADERS = b"\0\0\3\1\0\0\0\0\1" + b"\0\1x"
"""The beginning of a header block whose end never comes."""
GENERATE = "/lodestream.inference.v1.GenerateService/Generate"
ATTACKERS = 100


@pytest.mark.parametrize("sent", [b"", PREFACE[:5], PREFACE, HANDSHAKE, HANDSHAKE + OPEN_HEADERS])
async def test_connections_without_a_call_are_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of 100 connections stays open, and another caller is served meanwhile."""
    monkeypatch.setattr(connections, "MAX_CONNECTION_IDLE_MS", 2000)
    async with running_service(header_timeout=1.0) as service, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connect(service.address)) for _ in range(ATTACKERS)]
        for wire in wires:
            wire.send(sent)
        async with connect_grpc(service.address) as own:
            await GenerateServiceStub(own).Generate(_request())
        ended = [asyncio.wait_for(wire.reader.read(), TIMEOUT_SECONDS) for wire in wires]
        await asyncio.gather(*ended)


async def test_a_call_without_a_message_times_out() -> None:
    """The status names the reason."""
    async with running_service(body_timeout=1.0, max_message_bytes=100_000) as service:
        call: Any = service.channel.stream_unary(GENERATE)()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call, TIMEOUT_SECONDS)
        status = read_status(caught.value.code(), caught.value.details(), caught.value.trailing_metadata())
        assert (status.code, status.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT")
        assert len(service.server.calls) == 0


async def test_connections_above_the_limit_are_closed() -> None:
    """A connection above the limit is closed at once; after others have ended, a new one is accepted."""
    async with running_service(max_connections=5) as service, AsyncExitStack() as stack:
        await service.generate_stub.Generate(_request())
        for _ in range(4):
            wire = await stack.enter_async_context(connect(service.address))
            wire.send(HANDSHAKE)
            assert await wire.read_some()
        async with connect(service.address) as beyond:
            beyond.send(HANDSHAKE)
            assert await _ends_at_once(beyond.reader)
        await stack.aclose()
        await asyncio.sleep(0.5)
        async with connect_grpc(service.address) as own:
            await GenerateServiceStub(own).Generate(_request())


async def _ends_at_once(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(65536), TIMEOUT_SECONDS) == b""
    except ConnectionError:
        return True


def _request() -> pb.GenerateRequest:
    return pb.GenerateRequest(model=MODEL_ID, prompt="hello")


async def test_a_client_reconnects_after_its_idle_connection_was_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next call uses a new connection, also where the call and the close coincide."""
    monkeypatch.setattr(connections, "MAX_CONNECTION_IDLE_MS", 200)
    async with running_service() as service, AsyncClient(service.address, retries=0) as client:
        for pause in range(40):
            await asyncio.sleep(0.19 + pause / 2000)
            await client.list_models()
