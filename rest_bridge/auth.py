"""Who calls, and whether they may. The service checks the same key again."""

from __future__ import annotations

import re

from lodestream_common.keys import Keyring, Level
from rest_bridge.errors import INSUFFICIENT_SCOPE, INVALID_API_KEY, ApiError

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
