"""What the routes share: who calls, until when, and through which client."""

from __future__ import annotations

import contextlib
import math
import re
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from inference_client import AsyncClient, InferenceError
from lodestream_common.keys import FailedKeys, Keyring, Level
from rest_bridge.config import BridgeConfig
from rest_bridge.errors import INVALID_API_KEY, ApiError, invalid
from rest_bridge.middleware import RequestContext
from rest_bridge.security import UntilRevoked, bearer_token, check_key

_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,9})?")
_MAX_SECONDS = 3600
_SECONDS_BETWEEN_QUESTIONS = 60.0
_PATIENCE = 2.0
"""Seconds that the service gets to tell about itself."""


class EngineName:
    """The name of an open service's engine. It is asked for now and then, not for every probe."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._asked_at = -math.inf

    async def name(self, client: AsyncClient) -> str | None:
        """The name, as it was at most a minute ago; None: the service does not say."""
        now = time.monotonic()
        if now - self._asked_at > _SECONDS_BETWEEN_QUESTIONS:
            self._asked_at = now
            with contextlib.suppress(InferenceError):
                models = await client.list_models(timeout=_PATIENCE)
                self._name = models[0].backend if models else None
        return self._name


@dataclass(frozen=True, slots=True)
class Bridge:
    """What lives as long as the app."""

    config: BridgeConfig
    client: AsyncClient
    keyring: Keyring
    engine: EngineName = field(default_factory=EngineName)
    failed_keys: FailedKeys = field(default_factory=FailedKeys)


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """One request that was let in, as the service will see it."""

    bridge: Bridge
    exchange: RequestContext
    api_key: str | None
    """The caller's key; the service checks it, too."""
    timeout: float | None
    """Seconds; None: no deadline."""

    @property
    def options(self) -> dict[str, Any]:
        """What every RPC of the call is given."""
        return {
            "request_id": self.exchange.request_id,
            "api_key": self.api_key,
            "timeout": self.timeout,
        }


def bridge_of(request: Request) -> Bridge:
    """The app's own state."""
    bridge: Bridge = request.app.state.bridge
    return bridge


def admit(request: Request, needed: Level) -> AdmittedRequest:
    """Let a request in, before anything of its body is read.

    Raises:
        ApiError: its key does not allow this, or its deadline is malformed.

    """
    bridge = bridge_of(request)
    token = bearer_token(request.headers.get("authorization"))
    try:
        check_key(bridge.keyring, token, needed)
    except ApiError as error:
        if token is not None and error.row is INVALID_API_KEY:
            address = request.client.host if request.client else ""
            request.state.exchange.refusal_delay = bridge.failed_keys.delay(address)
        raise
    timeout = _timeout(request.headers.get("x-request-timeout"), bridge.config.request_timeout)
    exchange: RequestContext = request.state.exchange
    exchange.until_revoked = UntilRevoked(bridge.keyring, token)
    return AdmittedRequest(bridge, exchange, token, timeout)


def _timeout(header: str | None, default: float | None) -> float | None:
    if header is None:
        return default
    seconds = float(header) if _SECONDS.fullmatch(header) else 0.0
    if not 0 < seconds <= _MAX_SECONDS:
        raise invalid(
            "x-request-timeout", f"x-request-timeout must be a number of seconds in (0, {_MAX_SECONDS}]."
        )
    return seconds
