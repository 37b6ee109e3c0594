"""Who calls, and whether they may: keys, keys that are revoked meanwhile, and pages of other sites.

A bridge without keys trusts whoever reaches its loopback address. A browser on the same machine reaches it,
too, on behalf of any page that it shows: by a request to the address itself, or under a host name of the
page's own that suddenly resolves to 127.0.0.1 (DNS rebinding). The first is told by `Origin` and
`Sec-Fetch-Site`, which pages cannot set; the second by `Host`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from dataclasses import dataclass
from types import TracebackType

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lodestream_common.keys import Keyring, Level
from rest_bridge.config import BridgeConfig
from rest_bridge.errors import (
    HOST_NOT_ALLOWED,
    INSUFFICIENT_SCOPE,
    INVALID_API_KEY,
    ORIGIN_NOT_ALLOWED,
    ApiError,
)

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([\x21-\x7e]{1,1024}) *")


def bearer_token(authorization: str | None) -> str | None:
    """The token of an `Authorization: Bearer` header; None where there is none, or one of another form."""
    match = _BEARER.fullmatch(authorization or "")
    return match[1] if match else None


def check_key(keyring: Keyring, token: str | None, needed: Level) -> None:
    """Let a caller through or not. Without any key the server is open, and everybody passes.

    Raises:
        ApiError: 401 for no key or one that is not active, 403 for one whose level is below `needed`.

    """
    if not keyring.guarded:
        return
    key = keyring.verify(token) if token else None
    if key is None:
        raise ApiError(INVALID_API_KEY, "A valid API key is required: Authorization: Bearer pg_...")
    if not key.level.allows(needed):
        raise ApiError(
            INSUFFICIENT_SCOPE, f"The key's level is {key.level.value}; this needs {needed.value}."
        )


INTERVAL = 0.4
"""Seconds between two looks at a running request's key."""


class UntilRevoked:
    """Cancels the block it wraps soon after the caller's key was revoked.

    Args:
        keyring: the keys.
        token: the caller's, active when the request was let in; None: it needs none.

    Raises:
        ApiError: 401, on leaving the block, if the key was revoked first.

    """

    __slots__ = ("_keyring", "_revoked", "_task", "_timer", "_token")

    def __init__(self, keyring: Keyring, token: str | None) -> None:
        self._keyring = keyring
        self._token = token
        self._revoked = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "runs in a task"  # noqa: S101  always true of a coroutine
        self._task = task
        self._set_timer()

    def _set_timer(self) -> None:
        if self._token is not None and self._keyring.guarded:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def _look(self) -> None:
        if self._token is None or self._keyring.verify(self._token) is not None:
            self._set_timer()
            return
        self._revoked = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._revoked:
            return
        if self._task.uncancel() > 0 and kind is asyncio.CancelledError:
            # Somebody else cancelled the task, too.
            return
        raise ApiError(INVALID_API_KEY, "The API key was revoked.") from error


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
