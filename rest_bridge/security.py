"""Access to the bridge: API keys, and, on a bridge without keys, a check against foreign web pages.

A bridge without keys trusts everybody who reaches its loopback address. A browser on the same machine reaches
it, too, for any page that it shows: with a request to the address itself, or under a host name of the page's
own site that now resolves to 127.0.0.1 (DNS rebinding). `Origin` and `Sec-Fetch-Site`, which pages cannot
set, reveal the first; `Host` reveals the second.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lodestream_common.keys import ApiKey, Keyring, Level
from rest_bridge.config import BridgeConfig
from rest_bridge.errors import (
    HOST_NOT_ALLOWED,
    INSUFFICIENT_SCOPE,
    INVALID_API_KEY,
    ORIGIN_NOT_ALLOWED,
    ApiError,
)


def check_key(key: ApiKey | None, needed: Level) -> None:
    """Check the key of a caller of a bridge with keys.

    Args:
        key: the caller's, active or not; None: there is none, or it is unknown.
        needed: the level that the request needs.

    Raises:
        ApiError: 401 if the key is missing or not active, 403 if its level is below `needed`.

    """
    if key is None or not key.is_active:
        raise ApiError(INVALID_API_KEY, "A valid API key is required: Authorization: Bearer pg_...")
    if not key.level.allows(needed):
        raise ApiError(
            INSUFFICIENT_SCOPE, f"The key's level is {key.level.value}; this needs {needed.value}."
        )


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:[0-9]*)?")
_OWN_SITES = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for the bridge's own pages, and for addresses that the user typed."""


@dataclass(frozen=True, slots=True)
class AllowedSites:
    """The hosts and origins that the operator allows beside loopback."""

    hosts: frozenset[str]
    """Values of `Host`, in lower case, without a port."""
    origins: frozenset[str]
    """Origins of web pages, in lower case, as `https://chat.example.org`."""

    @classmethod
    def of(cls, config: BridgeConfig) -> AllowedSites:
        """Read the settings."""
        return cls(
            _words(config.allowed_hosts),
            frozenset(origin.lower().rstrip("/") for origin in config.cors_origin),
        )

    def check(self, method: str, headers: Headers) -> None:
        """Refuse a request that a foreign page may have made.

        Raises:
            ApiError: 403: its host is neither loopback nor allowed, or its page is of another site.

        """
        host = headers.get("host")
        if host is not None and not self._is_own_name(host):
            raise ApiError(
                HOST_NOT_ALLOWED,
                "Without API keys the Host header must name loopback (localhost, 127.0.0.1, [::1]) or a name "
                "in --allowed-hosts.",
            )
        if not self._is_own_page(method, host, headers):
            raise ApiError(
                ORIGIN_NOT_ALLOWED,
                "Without API keys requests of web pages of other sites are refused; list the page's origin "
                "in --cors-origin.",
            )

    def _is_own_name(self, host: str) -> bool:
        match = _HOST.fullmatch(host.strip().lower())
        if match is None:
            return False
        name = match[1].strip("[]").rstrip(".")
        return name in self.hosts or name == "localhost" or name.endswith(".localhost") or _is_loopback(name)

    def _is_own_page(self, method: str, host: str | None, headers: Headers) -> bool:
        origin = headers.get("origin", "").lower()
        if origin in self.origins:
            return True
        site = headers.get("sec-fetch-site", "none")
        if site not in _OWN_SITES:
            # When the user follows a link, the page with the link cannot read the response.
            is_link = headers.get("sec-fetch-mode") == "navigate" and method in {"GET", "HEAD"}
            return is_link and not origin
        own = {f"{scheme}://{(host or '').lower()}" for scheme in ("http", "https")}
        return not origin or origin in own


class BrowserMiddleware:
    """Refuses requests of foreign web pages while there are no keys."""

    def __init__(self, app: ASGIApp, allowed: AllowedSites, keyring: Keyring) -> None:
        self._app = app
        self._allowed = allowed
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request.

        Raises:
            ApiError: 403: a foreign page may have made it.

        """
        if scope["type"] == "http" and not self._keyring.requires_key:
            self._allowed.check(scope["method"], Headers(scope=scope))
        await self._app(scope, receive, send)


@lru_cache(maxsize=256)
def _is_loopback(name: str) -> bool:
    """Whether a name is a loopback address. Other names are not resolved."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip().lower().rstrip("/") for word in text.split(",") if word.strip())
