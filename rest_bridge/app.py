"""The app: routes, what they share, and how everything that can go wrong is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from inference_client import DEFAULT_MAX_MESSAGE_BYTES, AsyncClient
from lodestream_common.address import parse_address
from lodestream_common.errors import SettingError
from lodestream_common.keys import Keyring
from lodestream_common.pacing import Pacer
from rest_bridge.config import BridgeConfig
from rest_bridge.errors import INVALID_VALUE, METHOD_NOT_ALLOWED, ROUTE_NOT_FOUND, ApiError
from rest_bridge.middleware import RequestContextMiddleware
from rest_bridge.openapi import DescribedApp, add_docs
from rest_bridge.request import Bridge
from rest_bridge.routes import generation, health, models
from rest_bridge.security import Allowed, BrowserGuard

_RETRIES = 2
"""Attempts after the first, once the time of the setting `retry_timeout` is over."""

_FILES_INTERVAL = 0.5
"""Seconds between two looks at the key file."""


def create_app(config: BridgeConfig) -> FastAPI:
    """Make the bridge's app. It connects to the service with the first request.

    Raises:
        OperatorError: the key file is malformed, or the service's address is.

    """
    keyring = Keyring(config.keys_file)
    service = parse_address(config.grpc_address, "grpc_address")
    if not service.port and not service.is_unix:
        raise SettingError("grpc_address: port 0 is no place to find the service")
    target = str(service.reachable)

    pacer = Pacer(config.max_stream_interval, config.stream_pacing)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # What a body becomes for the service may be a little larger than the body.
        limit = max(config.max_body_bytes, DEFAULT_MAX_MESSAGE_BYTES)
        async with AsyncClient(
            target, retries=_RETRIES, retry_timeout=config.retry_timeout, max_message_bytes=limit
        ) as client:
            app.state.bridge = Bridge(config, client, keyring, pacer)
            watching = asyncio.create_task(_watch(keyring), name="watched-keys")
            yield
            watching.cancel()

    app = DescribedApp(
        title="Lodestream",
        version=version("lodestream"),
        description="Text generation over REST, OpenAI-style.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        exception_handlers={HTTPException: _on_http_exception},
    )
    allowed = Allowed.of(config)
    app.add_middleware(BrowserGuard, allowed=allowed, keyring=keyring)
    app.add_middleware(RequestContextMiddleware)
    if allowed.origins:
        # Outermost, so that pages may read refusals, too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(allowed.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    for route in (generation, models, health):
        app.include_router(route.router)
    add_docs(app)
    return app


async def _watch(keyring: Keyring) -> None:
    """Notice changes of the keys while nobody asks: a broken file is the operator's to know."""
    while True:
        await asyncio.sleep(_FILES_INTERVAL)
        keyring.refresh()


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Hand what the router refuses to where every other refusal is answered."""
    raise refusal(error.status_code, dict(error.headers or {})) from None


def refusal(status: int, headers: dict[str, str]) -> ApiError:
    """What the router refuses, in our words."""
    if status == 404:
        return ApiError(ROUTE_NOT_FOUND, "No such route; /docs lists those there are.")
    if status == 405:
        return ApiError(METHOD_NOT_ALLOWED, "The route does not take this method.", headers=headers)
    return ApiError(INVALID_VALUE, "The request is malformed.")
