"""What an open bridge takes from web browsers: nothing of a page that the operator has not allowed.

A bridge without keys trusts whoever reaches its loopback address. A browser on the same machine reaches it,
too, on behalf of any page that it shows: by a request to the address itself, or under a host name of the
page's own that suddenly resolves to 127.0.0.1 (DNS rebinding). The first is told by `Origin` and
`Sec-Fetch-Site`, which pages cannot set; the second by `Host`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lodestream_common.keys import Keyring
from rest_bridge.config import BridgeConfig
from rest_bridge.errors import HOST_NOT_ALLOWED, ORIGIN_NOT_ALLOWED, ApiError

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:[0-9]*)?")
_OWN_SITES = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site: the bridge's own pages, and what the user typed."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the operator allows beside loopback."""

    hosts: frozenset[str]
    """Names that `Host` may have, in lower case, without a port."""
    origins: frozenset[str]
    """Origins whose pages may call, in lower case, as `https://chat.example.org`."""

    @classmethod
    def of(cls, config: BridgeConfig) -> Allowed:
        """The settings as sets."""
        return cls(_words(config.allowed_hosts), _words(config.allowed_origins))

    def check(self, method: str, headers: Headers) -> None:
        """Refuse a request that only a foreign page can have made.

        Raises:
            ApiError: its host is neither loopback nor listed, or its page is of another site.

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
                "in --allowed-origins.",
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
            # Following a link shows the reply to the user and not to the page that had the link.
            followed = headers.get("sec-fetch-mode") == "navigate" and method in {"GET", "HEAD"}
            return followed and not origin
        own = {f"{scheme}://{(host or '').lower()}" for scheme in ("http", "https")}
        return not origin or origin in own


class BrowserGuard:
    """Asks `Allowed` about every request, as long as there are no keys.

    Plain ASGI, inside what answers refusals.
    """

    def __init__(self, app: ASGIApp, allowed: Allowed, keyring: Keyring) -> None:
        self._app = app
        self._allowed = allowed
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request.

        Raises:
            ApiError: it is refused.

        """
        if scope["type"] == "http" and not self._keyring.guarded:
            self._allowed.check(scope["method"], Headers(scope=scope))
        await self._app(scope, receive, send)


def _is_loopback(name: str) -> bool:
    """Whether a name is an address of loopback; no other name is looked up, whatever it resolves to."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip().lower().rstrip("/") for word in text.split(",") if word.strip())
