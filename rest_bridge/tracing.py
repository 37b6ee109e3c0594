"""The span of an HTTP request, by the conventions for HTTP servers."""

from __future__ import annotations

from starlette.types import Scope

from lodestream_common.tracing import Span, Tracer

_PROBES = ("/health", "/metrics")
"""Paths that are read so often that their spans would hide the others."""
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)


def start_span(tracer: Tracer, scope: Scope, request_id: str) -> Span | None:
    """The span of a request that arrived; None: it is a probe."""
    if scope["path"].removeprefix(scope.get("root_path", "")).startswith(_PROBES):
        return None
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    server, client = scope.get("server") or (None, None), scope.get("client") or (None, None)
    method = _known(scope["method"])
    return tracer.start_server_span(
        _named(method),
        headers,
        {
            "http.request.method": method,
            "url.scheme": scope["scheme"],
            "server.address": server[0],
            "server.port": server[1],
            "client.address": client[0],
            "network.protocol.version": scope["http_version"],
            "lodestream.request_id": request_id,
        },
    )


def end_span(
    span: Span, *, method: str, path: str, route: str | None, status: int | None, outcome: str
) -> None:
    """End the span of a request.

    Args:
        span: the request's.
        method: of HTTP.
        path: of the URL; one that no route took is its caller's own text, and is left out.
        route: the path of its route as declared; None: no route took it.
        status: of the reply; None: none was sent.
        outcome: as in the log line.

    """
    method = _known(method)
    span.end(
        f"{_named(method)} {route}" if route else _named(method),
        {
            "http.route": route,
            "url.path": path if route else None,
            "http.response.status_code": status,
            "error.type": None if outcome == "ok" else outcome,
        },
        outcome if status is None or status >= 500 else None,
    )


def _known(method: str) -> str:
    return method if method in _METHODS else "_OTHER"


def _named(method: str) -> str:
    return "HTTP" if method == "_OTHER" else method
