"""The gRPC service on a real socket, inside the test's own loop, on the simulated engine."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from lodestream.inference.v1 import generate_service_pb2_grpc as generate_grpc
from lodestream.inference.v1 import model_service_pb2_grpc as model_grpc

from inference_service.config import ServiceConfig
from inference_service.scheduling.admission import Admission
from inference_service.scheduling.loaded_engine import LoadedEngine
from inference_service.server import Server
from tests.support.pacing import pacing_settings

MODEL_ID = "smollm2-135m-instruct"
"""The model that the tested service serves."""
SMALL_WINDOW = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
"""Options of a connection whose small buffers fill soon if nobody reads."""


@dataclass(frozen=True, slots=True)
class Running:
    """A ready service and one connection to it."""

    address: str
    """`127.0.0.1:port`."""
    server: Server
    channel: grpc.aio.Channel
    generate_stub: generate_grpc.GenerateServiceAsyncStub
    model_stub: model_grpc.ModelServiceAsyncStub

    @property
    def loaded(self) -> LoadedEngine:
        """The engine, its model and its permits."""
        return self.server._slot.loaded

    @property
    def admission(self) -> Admission:
        """The permits."""
        admission = self.loaded.admission
        assert isinstance(admission, Admission)
        return admission


def service_config(**overrides: Any) -> ServiceConfig:
    """The settings of a service for tests: simulated engine, no delays, a port of the system's choice.

    Without `keys_file` no key exists, whatever the user running the tests has.
    """
    settings: dict[str, Any] = {
        "backend": "simulated",
        "model": MODEL_ID,
        "grpc_address": "127.0.0.1:0",
        "keys_file": Path(tempfile.gettempdir()) / uuid4().hex / "keys.json",
        "shutdown_grace": 1.0,
        **pacing_settings(),
    }
    return ServiceConfig(**{**settings, **overrides})


@asynccontextmanager
async def running_service(**config_overrides: Any) -> AsyncIterator[Running]:
    """Serve until the context ends. Arguments are fields of ServiceConfig."""
    server = Server(service_config(**config_overrides))
    try:
        address = str(await server.start())
        async with connect(address) as channel:
            yield Running(
                address,
                server,
                channel,
                generate_grpc.GenerateServiceStub(channel),
                model_grpc.ModelServiceStub(channel),
            )
    finally:
        await server.stop()


@asynccontextmanager
async def connect(address: str, *options: tuple[str, int]) -> AsyncIterator[grpc.aio.Channel]:
    """Open a connection that no other channel shares."""
    own = [("grpc.use_local_subchannel_pool", 1), *options]
    async with grpc.aio.insecure_channel(address, options=own) as channel:
        yield channel
