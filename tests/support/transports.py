"""Both transports of one service, which get the same requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from inference_client import AsyncClient, InferenceError
from rest_bridge.config import BridgeConfig
from rest_bridge.server import make_server
from tests.support.answers import Answer, join_chunks, read_error, read_generation, read_refusal, read_reply
from tests.support.messages import grpc_request
from tests.support.pacing import pacing_settings
from tests.support.service import Running, running_service

__all__ = ["Answer", "Callers", "Transports", "grpc_request", "running_transports", "serving_bridge"]

Ask = Callable[[Mapping[str, Any]], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Callers:
    """Sends a request over either transport. Every method takes a REST body."""

    client: AsyncClient
    http: httpx.AsyncClient
    key: str | None = field(default=None, kw_only=True)
    """The API key that goes with each request."""

    @property
    def ways(self) -> tuple[Ask, Ask, Ask, Ask]:
        """Every way to send a request."""
        return self.by_grpc, self.by_grpc_stream, self.by_rest, self.by_stream

    async def by_grpc(self, request: Mapping[str, Any]) -> Answer:
        """Request a whole answer over gRPC."""
        try:
            message = grpc_request(request)
            generation = await self.client.generate_request(message, api_key=self.key)
        except InferenceError as error:
            return read_error(error)
        return read_generation(generation, request)

    async def by_grpc_stream(self, request: Mapping[str, Any]) -> Answer:
        """Request a stream over gRPC and join it; the client checks the order of its events."""
        try:
            stream = self.client.stream_request(grpc_request(request), api_key=self.key)
            return read_generation(await stream.collect(), request)
        except InferenceError as error:
            return read_error(error)

    async def by_rest(self, request: Mapping[str, Any]) -> Answer:
        """Request a whole answer over REST."""
        body = {**request, "return_token_ids": True}
        reply = await self.http.post(self.path(request), json=body, headers=self._headers)
        return read_reply(reply.json(), request) if reply.status_code == 200 else read_refusal(reply.json())

    async def by_stream(self, request: Mapping[str, Any]) -> Answer:
        """Request a stream over REST and join it."""
        options = {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
        body = {**request, **options}
        async with self.http.stream("POST", self.path(request), json=body, headers=self._headers) as reply:
            if reply.status_code != 200:
                return read_refusal(json.loads(await reply.aread()))
            if reply.headers["content-type"].startswith("application/json"):
                return read_reply(json.loads(await reply.aread()), request)
            return join_chunks([line async for line in reply.aiter_lines() if line], request)

    @property
    def _headers(self) -> dict[str, str]:
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}

    @staticmethod
    def path(request: Mapping[str, Any]) -> str:
        return "/v1/chat/completions" if "messages" in request else "/v1/completions"


@dataclass(frozen=True, slots=True)
class Transports(Callers):
    """A service and a bridge that calls it, in this process."""

    service: Running
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@asynccontextmanager
async def running_transports(
    bridge: Mapping[str, Any] | None = None, **service: Any
) -> AsyncIterator[Transports]:
    """Run both servers until the context ends. Arguments are fields of BridgeConfig and of ServiceConfig."""
    async with running_service(**service) as running:
        keys_file = running.server.config.keys_file
        config = BridgeConfig(
            grpc_address=running.address,
            keys_file=keys_file,
            **{"retry_timeout": 2.0, **pacing_settings(), **(bridge or {})},
        )
        async with (
            serving_bridge(config) as url,
            AsyncClient(running.address, retries=0) as client,
            httpx.AsyncClient(base_url=url, timeout=60) as http,
        ):
            yield Transports(client, http, running, url)


@asynccontextmanager
async def serving_bridge(config: BridgeConfig) -> AsyncIterator[str]:
    """Run a bridge on a port of the system's choice; yield its URL."""
    server = make_server(config.model_copy(update={"http_address": "127.0.0.1:0"}), lambda _: None)
    serving = asyncio.create_task(server._serve(sockets=[server.socket]))
    try:
        while not server.started:
            assert not serving.done(), "the bridge did not start"
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
