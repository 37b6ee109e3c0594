"""Authentication: the key of a call, and its level."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from inference_service.errors import PermissionDenied, Unauthenticated
from lodestream_common.failed_keys import FailedKeys, bearer_token
from lodestream_common.keys import ANONYMOUS, KeyLimits, Keyring, Level, Priority

Metadata = Iterable[tuple[str, "str | bytes"]]


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of the key that a call carries."""

    key_id: str
    key_name: str
    level: Level
    is_active: bool = True
    """False once the key was revoked or has expired."""
    limits: KeyLimits = field(default_factory=KeyLimits)
    models: tuple[str, ...] = ()
    """Names or ids of the models that it may use; empty: all."""
    priority: Priority = Priority.INTERACTIVE

    def may_use(self, *names: str) -> bool:
        """Whether the key may use a model that has one of these names."""
        return not self.models or any(name in self.models for name in names)


class Access:
    """Checks a call's key and its level. A server without keys admits everybody."""

    def __init__(self, keyring: Keyring, failed: FailedKeys) -> None:
        self._keyring = keyring
        self._failed = failed

    def refusal_delay(self, metadata: Metadata, client: str) -> float:
        """Seconds by which to delay the refusal of an invalid key; 0 for a call without a key.

        Args:
            metadata: of the call.
            client: address of the caller.

        """
        return self._failed.delay(client) if _bearer(metadata) else 0.0

    def identify(self, metadata: Metadata) -> Caller | None:
        """The holder of the call's key, active or not; None: there is no key, or it is unknown."""
        if not self._keyring.requires_key:
            return Caller(ANONYMOUS, ANONYMOUS, Level.ADMIN)
        key = self._keyring.find(_bearer(metadata))
        if key is None:
            return None
        return Caller(key.id, key.name, key.level, key.is_active, key.limits, key.models, key.priority)

    def admit(self, caller: Caller | None, needed: Level) -> Caller:
        """Check that a caller may make a call.

        Raises:
            Unauthenticated: the key is unknown, revoked or expired, or there is none.
            PermissionDenied: the key's level is below `needed`.

        """
        if caller is None or not caller.is_active:
            raise Unauthenticated("A valid API key is required: authorization: Bearer pg_...")
        if not caller.level.allows(needed):
            raise PermissionDenied(f"The key's level is {caller.level.value}; this needs {needed.value}.")
        return caller

    def is_still_active(self, caller: Caller) -> bool:
        """Whether the key of an admitted caller is still active."""
        return caller.key_id == ANONYMOUS or self._keyring.is_active(caller.key_id)


def _bearer(metadata: Metadata) -> str:
    """The caller's token; empty where there is none."""
    value = next((value for name, value in metadata if name == "authorization"), None)
    return (bearer_token(value) or "") if isinstance(value, str) else ""
