"""A bridge on a real socket in the event loop of the test."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from rest_bridge.config import BridgeConfig
from rest_bridge.server import BridgeServer, make_server
from tests.support.pacing import pacing_settings


@dataclass(frozen=True, slots=True)
class RunningBridge:
    """A listening bridge."""

    address: str
    """`127.0.0.1:port`."""
    server: BridgeServer
    done: asyncio.Task[None]

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def requests(self) -> int:
        """The number of running requests."""
        return len(self.server.server_state.tasks)


def bridge_config(grpc_address: str, **overrides: Any) -> BridgeConfig:
    """The settings of a bridge for tests: a port of the system's choice, and no key.

    Without `keys_file` no key exists, whatever the user running the tests has.
    """
    settings: dict[str, Any] = {
        "grpc_address": grpc_address,
        "http_address": "127.0.0.1:0",
        "keys_file": Path(tempfile.gettempdir()) / uuid4().hex / "keys.json",
        "shutdown_grace": 1.0,
        "retry_timeout": 2.0,
        **pacing_settings(),
    }
    return BridgeConfig(**{**settings, **overrides})


_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For plain HTTP. Else each client would read all authorities, which takes longer than a request."""


def http_client(url: str, timeout: float = 30, **options: Any) -> httpx.AsyncClient:
    """A client for the bridge at a URL."""
    return httpx.AsyncClient(base_url=url, timeout=timeout, verify=_NO_AUTHORITIES, **options)


@asynccontextmanager
async def running_bridge(grpc_address: str, **overrides: Any) -> AsyncGenerator[RunningBridge, None]:
    """Serve until the context ends. Arguments are fields of BridgeConfig."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = make_server(bridge_config(grpc_address, **overrides), ready.set_result)
    done = asyncio.create_task(server.serve(sockets=[server.socket]))
    try:
        yield RunningBridge(await asyncio.wait_for(ready, 10), server, done)
    finally:
        server.should_exit = True
        await asyncio.wait_for(done, 30)
