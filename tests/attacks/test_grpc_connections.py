"""Connections to the gRPC port that hold on to it without asking for anything.

Before, a silent one stayed for the core's 120 seconds, one that had said hello for ever, and so did a call
whose message never came. Now the first ends with the time of a handshake, the second with 75 seconds of
idleness, the third with the time of a body, and there are no more connections than the settings say.
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
from inference_service import server
from tests.rest_bridge.wire import connect
from tests.support.service import MODEL_ID, running_service
from tests.support.service import connect as connect_grpc
from tests.support.statuses import read_status

PATIENCE = 15.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\4\1\0\0\0\0"
"""The preface, our settings, and that the server's are accepted."""
OPEN_HEADERS = b"\0\0\3\1\0\0\0\0\1" + b"\0\1x"
"""The beginning of a request's headers, of which no end comes."""
GENERATE = "/lodestream.inference.v1.GenerateService/Generate"
ATTACKERS = 100


@pytest.mark.parametrize("said", [b"", PREFACE[:5], PREFACE, HELLO, HELLO + OPEN_HEADERS])
async def test_a_connection_without_a_call_is_ended(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 none stays, and meanwhile others are served."""
    monkeypatch.setattr(server, "MAX_CONNECTION_IDLE_MS", 2000)
    async with running_service(header_timeout=1.0) as service, AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connect(service.address)) for _ in range(ATTACKERS)]
        for wire in wires:
            wire.send(said)
        async with connect_grpc(service.address) as own:
            await GenerateServiceStub(own).Generate(_request())
        ended = [asyncio.wait_for(wire.reader.read(), PATIENCE) for wire in wires]
        await asyncio.gather(*ended)


async def test_a_call_without_a_message_is_ended() -> None:
    """With a status that says what is missing, however patient its caller is."""
    async with running_service(body_timeout=1.0, max_message_bytes=100_000) as service:
        call: Any = service.channel.stream_unary(GENERATE)()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call, PATIENCE)
        told = read_status(caught.value.code(), caught.value.details(), caught.value.trailing_metadata())
        assert (told.code, told.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT")
        assert len(service.server.calls) == 0


async def test_there_are_no_more_connections_than_the_settings_say() -> None:
    """One more is closed at once; a place that is free is given to the next."""
    async with running_service(max_connections=5) as service, AsyncExitStack() as stack:
        await service.generate_stub.Generate(_request())
        for _ in range(4):
            wire = await stack.enter_async_context(connect(service.address))
            wire.send(HELLO)
            assert await wire.read_some()
        async with connect(service.address) as beyond:
            beyond.send(HELLO)
            assert await _ends_at_once(beyond.reader)
        await stack.aclose()
        await asyncio.sleep(0.5)
        async with connect_grpc(service.address) as own:
            await GenerateServiceStub(own).Generate(_request())


async def _ends_at_once(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(65536), PATIENCE) == b""
    except ConnectionError:
        return True


def _request() -> pb.GenerateRequest:
    return pb.GenerateRequest(model=MODEL_ID, prompt="hello")


async def test_an_idle_client_does_not_notice_that_its_connection_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its next call is made on a new one, also where both happen at the same moment."""
    monkeypatch.setattr(server, "MAX_CONNECTION_IDLE_MS", 200)
    async with running_service() as service, AsyncClient(service.address, retries=0) as client:
        for pause in range(40):
            await asyncio.sleep(0.19 + pause / 2000)
            await client.list_models()
