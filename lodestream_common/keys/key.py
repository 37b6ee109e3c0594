"""What an API key is, and how it is made and recognised.

Only the SHA-256 of a key is stored. A slow password hash would add nothing: it makes guessing costly where
secrets are guessable, and a key has 238 bits from the system's random source.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from dataclasses import dataclass, field
from enum import Enum

PREFIX = "pg_"
_ALPHABET = string.ascii_letters + string.digits
_SECRET_LENGTH = 40
_LONGEST_TOKEN = 256


class Level(Enum):
    """What a key may do. Each level includes the ones before it."""

    READ_ONLY = "read-only"
    """Ask what is served."""
    READ_WRITE = "read-write"
    """Generate, too."""
    ADMIN = "admin"
    """Everything."""

    def allows(self, needed: Level) -> bool:
        """Whether a key of this level may do what takes `needed`."""
        order = list(Level)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored: everything but the key itself."""

    id: str
    """`key_` and 12 hexadecimal digits; fit for logs."""
    name: str
    """1 to 64 printable characters; no other active key has it."""
    level: Level
    digest: str = field(repr=False)
    """SHA-256 of the key, 64 hexadecimal digits."""
    created: int
    """Seconds since the Unix epoch."""
    revoked: int | None = None
    """Seconds since the Unix epoch; None as long as the key is active."""

    @property
    def is_active(self) -> bool:
        """Whether the key still opens anything."""
        return self.revoked is None


def new_token() -> str:
    """Make a key: `pg_` and 40 random characters of [A-Za-z0-9]."""
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))


def new_id() -> str:
    """Make the id of a key."""
    return "key_" + secrets.token_hex(6)


def digest_of(token: str) -> str:
    """Hash a key as it is stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def find_key(keys: tuple[ApiKey, ...], token: str) -> ApiKey | None:
    """Find the key that `token` is, revoked or not, in a time that tells neither which, nor how nearly."""
    if len(token) > _LONGEST_TOKEN:
        return None
    digest = digest_of(token)
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest) and (found is None or key.is_active):
            found = key
    return found
