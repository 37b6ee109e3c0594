"""Assembles the FastAPI app: state, middleware, routes, and the errors of the router."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_client import DEFAULT_MAX_MESSAGE_BYTES, AsyncClient, TlsConfig
from lodestream_common.address import parse_address
from lodestream_common.errors import SettingError
from lodestream_common.failed_keys import FailedKeys
from lodestream_common.keys import Keyring
from lodestream_common.metrics import STREAM_INTERVAL_PERIOD
from lodestream_common.pacing import Pacer
from lodestream_common.proxies import TrustedProxies
from lodestream_common.request_log import LogSample
from lodestream_common.tls import CHECK_INTERVAL, FollowedPem, Pem, TlsFiles, check_plain_text
from lodestream_common.tracing import Tracer
from rest_bridge.config import BridgeConfig
from rest_bridge.errors import INVALID_VALUE, METHOD_NOT_ALLOWED, ROUTE_NOT_FOUND, ApiError
from rest_bridge.metrics import BridgeMetrics
from rest_bridge.middleware import LoggedCors, RequestContextMiddleware
from rest_bridge.openapi import DescribedApp, add_docs
from rest_bridge.proxy import ProxyMiddleware
from rest_bridge.request import Bridge
from rest_bridge.routes import generation, health, metrics, models, playground, usage
from rest_bridge.security import AllowedSites, BrowserMiddleware

_RETRIES = 2
"""Attempts after the first, once the time of the setting `retry_timeout` is over."""

_KEYS_INTERVAL = 0.5
"""Seconds between two checks of the key file."""


def create_app(
    config: BridgeConfig, failed_keys: FailedKeys | None = None, tracer: Tracer | None = None
) -> FastAPI:
    """Make the bridge's app. It connects to the service for the first request.

    Args:
        config: the settings.
        failed_keys: delays the refusals of failed keys; None: the app has its own.
        tracer: gets a span of each request; None: there are no traces.

    Raises:
        OperatorError: the key file or the service's address is malformed.

    """
    keyring = Keyring(config.keys_file)
    counts = BridgeMetrics() if config.metrics else None
    app = DescribedApp(
        title="Lodestream",
        version=version("lodestream"),
        description="Text generation over REST, OpenAI-style.",
        lifespan=_lifespan(config, keyring, FailedKeys() if failed_keys is None else failed_keys, counts),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        exception_handlers={HTTPException: _on_http_exception},
    )
    _add_middleware(app, config, keyring, counts, tracer)
    for route in (generation, models, usage, health):
        app.include_router(route.router)
    if config.metrics:
        app.include_router(metrics.router)
    if config.playground:
        app.include_router(playground.router)
    add_docs(app)
    return app


def _add_middleware(
    app: FastAPI,
    config: BridgeConfig,
    keyring: Keyring,
    counts: BridgeMetrics | None,
    tracer: Tracer | None,
) -> None:
    """Add the middleware from the innermost to the outermost."""
    allowed = AllowedSites.of(config)
    app.add_middleware(DirectRoutes, routes=generation.routes())
    app.add_middleware(BrowserMiddleware, allowed=allowed, keyring=keyring)
    logged = partial(
        RequestContextMiddleware,
        metrics=counts,
        keyring=keyring,
        log_sample=LogSample.parse(config.log_sample),
        tracer=tracer,
    )
    app.add_middleware(logged)
    if allowed.origins:
        # Outside the others, so that pages can read errors, too.
        app.add_middleware(LoggedCors, origins=sorted(allowed.origins), logged=logged)
    proxies = TrustedProxies(config.trusted_proxies)
    if proxies or config.root_path:
        app.add_middleware(ProxyMiddleware, proxies=proxies, root_path=config.root_path)


class DirectRoutes:
    """Calls the endpoints of some routes without the framework's router and its dependencies, which they do
    not use. The routes stay in the router, too, for the API's description and for other methods.

    Args:
        app: answers all other requests.
        routes: of requests with POST, without parameters in their paths; each endpoint takes a `Request` and
            returns a `Response`.

    """

    def __init__(self, app: ASGIApp, routes: Iterable[APIRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes if route.methods == {"POST"}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        route = self._routes.get(scope["path"]) if is_post else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def _lifespan(
    config: BridgeConfig, keyring: Keyring, failed_keys: FailedKeys, counts: BridgeMetrics | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Make the context that holds the app's state while the app runs."""
    service = parse_address(config.grpc_address, "grpc_address")
    if not service.port and not service.is_unix:
        raise SettingError("grpc_address: the port of the service must not be 0")
    # The protocol message for a body may be a little larger than the body.
    certificates = _service_certificates(config)
    check_plain_text(
        service,
        allowed=config.insecure or certificates is not None,
        setting="grpc_address",
        remedy="--service-ca",
    )
    limit = max(config.max_body_bytes, DEFAULT_MAX_MESSAGE_BYTES)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncClient(
            str(service.reachable),
            retries=_RETRIES,
            retry_timeout=config.retry_timeout,
            max_message_bytes=limit,
            tls=None if certificates is None else _client_tls(config, certificates.current),
        ) as client:
            pacer = Pacer(config.max_stream_interval, config.stream_pacing)
            app.state.bridge = Bridge(config, client, keyring, failed_keys, pacer, counts)
            watching = [asyncio.create_task(_watch(keyring), name="key-file-watch")]
            if counts is not None:
                watching.append(asyncio.create_task(_show_interval(pacer, counts), name="stream-interval"))
            if certificates is not None:
                watching.append(asyncio.create_task(_follow(config, certificates, client)))
            yield
            for task in watching:
                task.cancel()

    return lifespan


async def _watch(keyring: Keyring) -> None:
    """Read the key file regularly, so that the log reports a broken file though no request needs a key."""
    while True:
        await asyncio.sleep(_KEYS_INTERVAL)
        keyring.refresh()


async def _show_interval(pacer: Pacer, counts: BridgeMetrics) -> None:
    """Keep the metric of the stream interval up to date."""
    while True:
        counts.stream_interval.set(pacer.current)
        await asyncio.sleep(STREAM_INTERVAL_PERIOD)


def _service_certificates(config: BridgeConfig) -> FollowedPem | None:
    names = ("service_certificate", "service_key", "service_ca")
    files = TlsFiles(config.service_certificate, config.service_key, config.service_ca, names)
    if files.authorities is not None:
        return FollowedPem(files)
    for name in ("service_certificate", "service_key", "service_server_name"):
        if getattr(config, name) is not None:
            raise SettingError(f"{name}: needs service_ca, too")
    return None


def _client_tls(config: BridgeConfig, pem: Pem) -> TlsConfig:
    return TlsConfig(pem.authorities, pem.certificate, pem.key, config.service_server_name)


async def _follow(config: BridgeConfig, certificates: FollowedPem, client: AsyncClient) -> None:
    """Let new calls of the service use changed certificates."""
    while True:
        await asyncio.sleep(CHECK_INTERVAL)
        if certificates.refresh():
            client.use_tls(_client_tls(config, certificates.current))


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Raise the router's error as an `ApiError`, which the middleware answers."""
    raise router_error(error.status_code, dict(error.headers or {})) from None


def router_error(status: int, headers: dict[str, str]) -> ApiError:
    """The `ApiError` for a status with which the router refuses a request."""
    if status == 404:
        return ApiError(ROUTE_NOT_FOUND, "No such route; /docs lists all routes.")
    if status == 405:
        return ApiError(METHOD_NOT_ALLOWED, "The route does not support this method.", headers=headers)
    return ApiError(INVALID_VALUE, "The request is malformed.")
