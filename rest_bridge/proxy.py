"""Reads the headers of a trusted proxy: the caller's address, scheme and host, and the path's prefix."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lodestream_common.proxies import TrustedProxies, forwarded_addresses

_SCHEMES = frozenset({"http", "https"})


class ProxyMiddleware:
    """Puts the caller of a trusted proxy in the place of the proxy, and a prefix of all paths into the scope.

    uvicorn's own middleware has no `Forwarded` and no `X-Forwarded-Host`, and takes any text for an address.

    Args:
        proxies: whose headers count.
        root_path: the prefix under which a proxy publishes the bridge, as `/llm`; empty: none. The proxy may
            remove it from the path, or leave it there.

    """

    def __init__(self, app: ASGIApp, proxies: TrustedProxies, root_path: str) -> None:
        self._app = app
        self._proxies = proxies
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] == "http":
            peer = scope.get("client")
            if peer and self._proxies and self._proxies.trusts(peer[0]):
                scope = {**scope, **self._forwarded(scope, peer[0])}
            if self._root_path:
                scope = {**scope, **self._placed(scope["path"])}
        await self._app(scope, receive, send)

    def _forwarded(self, scope: Scope, peer: str) -> Scope:
        headers = Headers(scope=scope)
        addresses = forwarded_addresses(headers.getlist("x-forwarded-for"), headers.getlist("forwarded"))
        changes: Scope = {"client": (self._proxies.client(peer, addresses), 0)}
        scheme = _last(headers, "x-forwarded-proto")
        if scheme in _SCHEMES:
            changes["scheme"] = scheme
        host = _last(headers, "x-forwarded-host")
        if host:
            kept = [(name, value) for name, value in scope["headers"] if name != b"host"]
            changes["headers"] = [*kept, (b"host", host.encode("latin-1"))]
        return changes

    def _placed(self, path: str) -> Scope:
        """By ASGI the path has the prefix, whether or not the proxy left it there."""
        is_prefixed = path == self._root_path or path.startswith(f"{self._root_path}/")
        return {"root_path": self._root_path, "path": path if is_prefixed else self._root_path + path}


def _last(headers: Headers, name: str) -> str:
    """The value that the nearest proxy wrote; empty where there is none."""
    return ",".join(headers.getlist(name)).rpartition(",")[2].strip()
