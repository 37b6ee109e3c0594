"""A small reverse proxy on a real socket, as nginx and Envoy behave by default."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

_HOP_BY_HOP = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})


class ReverseProxy:
    """Passes requests on, and appends the address of its peer to `X-Forwarded-For`.

    Args:
        upstream: a client with the base URL of the next server.
        prefix: of the paths that it serves, as `/llm`.
        strips: whether it removes the prefix.

    """

    def __init__(self, upstream: httpx.AsyncClient, prefix: str, *, strips: bool) -> None:
        self._upstream = upstream
        self._prefix = prefix
        self._strips = strips

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        request = Request(scope, receive)
        assert request.client
        path = scope["path"].removeprefix(self._prefix) if self._strips else scope["path"]
        headers = httpx.Headers([(n, v) for n, v in request.headers.items() if n not in _HOP_BY_HOP])
        before = headers.get("x-forwarded-for")
        headers["x-forwarded-for"] = f"{before}, {request.client.host}" if before else request.client.host
        headers.setdefault("x-forwarded-host", request.headers["host"])
        onward = self._upstream.build_request(
            request.method, path, headers=headers, content=await request.body(), params=request.query_params
        )
        reply = await self._upstream.send(onward, stream=True)
        kept = {name: value for name, value in reply.headers.items() if name not in _HOP_BY_HOP}
        response = StreamingResponse(
            reply.aiter_raw(), reply.status_code, kept, background=BackgroundTask(reply.aclose)
        )
        await response(scope, receive, send)


@asynccontextmanager
async def reverse_proxy(
    url: str, *, source: str = "127.0.0.1", prefix: str = "", strips: bool = True
) -> AsyncIterator[str]:
    """Serve a proxy in front of `url`, which it calls from `source`, until the context ends; its own URL."""
    transport = httpx.AsyncHTTPTransport(local_address=source)
    async with httpx.AsyncClient(base_url=url, transport=transport, timeout=30) as upstream:
        app = ReverseProxy(upstream, prefix, strips=strips)
        config = uvicorn.Config(app, lifespan="off", log_config=None, proxy_headers=False)
        server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        try:
            while not server.started:
                assert not serving.done()
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
