"""API keys: their settings, their file, and the key ring of a running server.

Only the SHA-256 of a key is stored. A slow password hash makes it costly to guess weak secrets. A key has 238
bits from the system's random source, so nobody can guess it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import string
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import structlog

from lodestream_common.errors import OperatorError
from lodestream_common.watched_file import WatchedFile

PREFIX = "pg_"
_ALPHABET = string.ascii_letters + string.digits
_SECRET_LENGTH = 40
_LONGEST_TOKEN = 256


class Level(Enum):
    """The permissions of a key. Each level includes the ones before it."""

    READ_ONLY = "read-only"
    """List models."""
    READ_WRITE = "read-write"
    """Generate."""
    ADMIN = "admin"
    """Everything."""

    def allows(self, needed: Level) -> bool:
        """Whether a key of this level may do what needs the level `needed`."""
        order = list(Level)
        return order.index(self) >= order.index(needed)


class Priority(Enum):
    """The queue in which the requests of a key wait."""

    INTERACTIVE = "interactive"
    """Somebody waits for the answer."""
    BATCH = "batch"
    """Nobody waits: after the interactive ones, except for a small share."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The quotas of one key; None: the server's own, which only requests have. 0: no limit."""

    requests_per_minute: int | None = None
    """Requests of any kind; range [0, 1000000]."""
    tokens_per_minute: int | None = None
    """Tokens of prompts and of output; range [0, 1000000000]."""
    max_concurrent: int | None = None
    """Generations that run or wait at once; range [0, 100000]."""


MOST = KeyLimits(requests_per_minute=1_000_000, tokens_per_minute=1_000_000_000, max_concurrent=100_000)
"""The upper ends of the ranges."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored, without the token itself."""

    id: str
    """`key_` and 12 hexadecimal digits; logs may have it."""
    name: str
    """1 to 64 printable characters; only the keys of a rotation share it."""
    level: Level
    digest: str = field(repr=False)
    """SHA-256 of the token, 64 hexadecimal digits."""
    created: int
    """Seconds since the Unix epoch."""
    revoked: int | None = None
    """Seconds since the Unix epoch; None: nobody revoked it."""
    expires: int | None = None
    """Seconds since the Unix epoch; None: never."""
    limits: KeyLimits = KeyLimits()
    models: tuple[str, ...] = ()
    """Names or ids of the models that the key may use; empty: all."""
    priority: Priority = Priority.INTERACTIVE

    @property
    def is_active(self) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked is None and not self.has_expired

    @property
    def has_expired(self) -> bool:
        """Whether the time of its end has come."""
        return self.expires is not None and time.time() >= self.expires


def new_token() -> str:
    """Make a token: `pg_` and 40 random characters of [A-Za-z0-9]."""
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))


def new_id() -> str:
    """Make a key id: `key_` and 12 random hexadecimal digits."""
    return "key_" + secrets.token_hex(6)


def digest_of(token: str) -> str:
    """Hash a token for the key file."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def find_key(keys: tuple[ApiKey, ...], token: str) -> ApiKey | None:
    """Find the key of a token, revoked or not, in a time that does not depend on the key."""
    if len(token) > _LONGEST_TOKEN:
        return None
    digest = digest_of(token)
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest) and (found is None or key.is_active):
            found = key
    return found


ANONYMOUS = "anonymous"
"""Id and name of the key of every caller of an open server."""
VERSION = 1
_LATEST = 253_402_300_799
"""The last second of the year 9999, in seconds since the Unix epoch."""


class KeyFile:
    """The key file at `path`. The first `create` makes the file and its directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def list(self) -> tuple[ApiKey, ...]:
        """Read all keys, oldest first, also revoked ones; none if there is no file.

        Raises:
            OperatorError: the file cannot be read, or is not a key file.

        """
        try:
            return parse_keys(self.path.read_bytes(), self.path)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise OperatorError(f"keys file {self.path}: cannot be read: {error.strerror}") from error

    def create(
        self,
        name: str,
        level: Level = Level.READ_WRITE,
        *,
        lifetime: int | None = None,
        limits: KeyLimits = KeyLimits(),
        models: tuple[str, ...] = (),
        priority: Priority = Priority.INTERACTIVE,
    ) -> tuple[ApiKey, str]:
        """Store a new key, and return it with its token, which is not stored.

        Args:
            name: of the key.
            level: its permissions.
            lifetime: seconds from now until it expires; None: it does not expire.
            limits: its quotas.
            models: names or ids of the models that it may use; empty: all.
            priority: of its requests.

        Raises:
            OperatorError: the name or another setting is malformed, the name is taken, or the file cannot be
                written.

        """
        _check_name(name)
        now, token = int(time.time()), new_token()
        expires = None if lifetime is None else now + lifetime
        digest = digest_of(token)
        key = ApiKey(new_id(), name, level, digest, now, None, expires, limits, models, priority)
        _check_settings(key)
        with self._locked() as target:
            keys = self.list()
            if any(name in (other.id, other.name) for other in keys if other.is_active):
                raise OperatorError(f"a key named {name!r} exists already; revoke it, or choose another name")
            self._write(target, (*keys, key))
        return key, token

    def rotate(self, name: str, overlap: int) -> tuple[ApiKey, str, ApiKey]:
        """Store a new key with the name and the settings of an active one, which expires after the overlap.

        A key that was to expire gets a successor with the same lifetime, from now on.

        Args:
            name: of the active key; of several, the newest has the successor.
            overlap: seconds for which the older key stays active, unless it expires before; at least 0.

        Returns:
            The new key, its token, and the older key with its end.

        Raises:
            OperatorError: no active key has this name, or the file cannot be written.

        """
        now, token = int(time.time()), new_token()
        with self._locked() as target:
            keys = self.list()
            old = next((k for k in reversed(keys) if k.is_active and k.name == name), None)
            if old is None:
                raise OperatorError(f"no active key has the name {name!r}; see: lodestream keys list")
            expires = None if old.expires is None else now + old.expires - old.created
            key = replace(old, id=new_id(), digest=digest_of(token), created=now, expires=expires)
            end = now + overlap if old.expires is None else min(old.expires, now + overlap)
            ending = replace(old, expires=end)
            _check_settings(key)
            _check_settings(ending)
            self._write(target, (*(ending if k.id == old.id else k for k in keys), key))
        return key, token, ending

    def revoke(self, name_or_id: str) -> ApiKey:
        """Revoke an active key, and by name all of a rotation. They stay in the file, so that the servers
        still require keys.

        Returns:
            The revoked key, of several the newest.

        Raises:
            OperatorError: no active key has this name or id, or the file cannot be written.

        """
        now = int(time.time())
        with self._locked() as target:
            keys = self.list()
            revoked = {
                k.id: replace(k, revoked=now) for k in keys if k.is_active and name_or_id in (k.id, k.name)
            }
            if not revoked:
                raise OperatorError(
                    f"no active key has the name or id {name_or_id!r}; see: lodestream keys list"
                )
            self._write(target, tuple(revoked.get(k.id, k) for k in keys))
        return [*revoked.values()][-1]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Path]:
        """Lock the file for one writer, and yield its path with symbolic links resolved."""
        target = self.path.resolve()
        # The lock is a file of its own, because each write replaces the key file.
        lock = target.with_name(target.name + ".lock")
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield target
        finally:
            os.close(descriptor)

    def _write(self, target: Path, keys: tuple[ApiKey, ...]) -> None:
        try:
            _replace_file(target, render_keys(keys))
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> OperatorError:
        return OperatorError(f"keys file {self.path}: cannot be written: {error.strerror}")


def parse_keys(content: bytes, path: Path) -> tuple[ApiKey, ...]:
    """Parse the content of a key file.

    Raises:
        OperatorError: it is malformed, or has another version; the message names `path`.

    """
    try:
        document = json.loads(content)
        version = document["version"]
        if type(version) is int and version != VERSION:
            raise OperatorError(f"keys file {path}: version {version:.12g} is not the known {VERSION}")
        if version != VERSION:
            raise ValueError("the version is no number")
        return tuple(_parse_key(entry) for entry in document["keys"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise OperatorError(
            f"keys file {path}: is damaged, or no key file; restore it, or move it away and create new keys"
        ) from error


def render_keys(keys: tuple[ApiKey, ...]) -> bytes:
    """Write the content of a key file."""
    return (json.dumps({"version": VERSION, "keys": [_entry(key) for key in keys]}, indent=2) + "\n").encode()


def _entry(key: ApiKey) -> dict[str, Any]:
    """A key as in the file. Unset settings are left out, so that older servers can read it."""
    priority = None if key.priority is Priority.INTERACTIVE else key.priority.value
    entry = {**asdict(key), "level": key.level.value, "priority": priority}
    entry["limits"] = {name: value for name, value in entry["limits"].items() if value is not None}
    return {name: value for name, value in entry.items() if name not in _OPTIONAL or value}


_OPTIONAL: dict[str, Any] = {"expires": int, "limits": dict, "models": list, "priority": str}


def _parse_key(entry: dict[str, Any]) -> ApiKey:
    kinds: dict[str, Any] = {"id": str, "name": str, "digest": str, "created": int, "revoked": int | None}
    if not all(isinstance(entry[field], kind) for field, kind in kinds.items()):
        raise ValueError("a field of a key has the wrong type")
    if not all(isinstance(entry[field], kind) for field, kind in _OPTIONAL.items() if field in entry):
        raise ValueError("a setting of a key has the wrong type")
    if len(bytes.fromhex(entry["digest"])) != 32:
        raise ValueError("the digest of a key has the wrong length")
    if not (_is_name(entry["name"]) and _is_name(entry["id"])):
        raise ValueError("the name or the id of a key is malformed")
    for when in (entry["created"], entry["revoked"]):
        if isinstance(when, bool) or not 0 <= (when or 0) <= _LATEST:
            raise ValueError("a time is out of range")
    limits, models = KeyLimits(**entry.get("limits", {})), tuple(entry.get("models", ()))
    level, priority = Level(entry["level"]), Priority(entry.get("priority", Priority.INTERACTIVE))
    key = ApiKey(**{**entry, "level": level, "limits": limits, "models": models, "priority": priority})
    if problem := _problem(key):
        raise ValueError(problem)
    return key


def _problem(key: ApiKey) -> str | None:
    """The error in the settings of a key; None: they are valid."""
    if key.expires is not None and not _is_number(key.expires, _LATEST):
        return "the key would expire after the year 9999"
    for name, most in asdict(MOST).items():
        value = getattr(key.limits, name)
        if value is not None and not _is_number(value, most):
            return f"{name} must be an integer from 0 to {most}"
    names: tuple[object, ...] = key.models
    if not all(isinstance(name, str) and 1 <= len(name) <= 256 and name.isprintable() for name in names):
        return "models must be names of 1 to 256 printable characters"
    return None


def _is_number(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _check_settings(key: ApiKey) -> None:
    if problem := _problem(key):
        raise OperatorError(problem)


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= 64 and text.isprintable() and text == text.strip()


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise OperatorError("the name of a key is 1 to 64 printable characters, with no space at either end")


def _replace_file(path: Path, content: bytes) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


_log = structlog.stdlib.get_logger(__name__)


class Keyring:
    """Recognises API keys, and reads changes of the key file within `check_interval` seconds.

    If the file disappears or becomes malformed while the server runs, the last valid state counts, and one
    error is logged. A server that has required keys once continues to require them.

    Raises:
        OperatorError: on construction, if the file exists but is malformed or unreadable.

    """

    def __init__(self, path: Path, check_interval: float = 0.25) -> None:
        self._file = KeyFile(path)
        self._watched = WatchedFile(path, check_interval)
        self._keys = self._file.list()
        self._requires_key = bool(self._keys)

    @property
    def requires_key(self) -> bool:
        """Whether callers need a key: a key was created, even if it is revoked now."""
        self.refresh()
        return self._requires_key

    def find(self, token: str) -> ApiKey | None:
        """Find the key of a token, also one that is not active; None: the token is unknown."""
        self.refresh()
        return find_key(self._keys, token)

    def verify(self, token: str) -> ApiKey | None:
        """Find the active key of a token; None: it is unknown, revoked or expired."""
        key = self.find(token)
        return key if key is not None and key.is_active else None

    def is_active(self, key_id: str) -> bool:
        """Whether a key exists, and is neither revoked nor expired."""
        self.refresh()
        return any(key.id == key_id and key.is_active for key in self._keys)

    def refresh(self) -> None:
        """Read the file again if it has changed, at most once each `check_interval`. Every other method calls
        this.
        """
        if self._watched.has_changed():
            self._reload()

    def _reload(self) -> None:
        try:
            if self._requires_key and self._watched.is_missing:
                raise OperatorError(f"keys file {self._file.path}: is missing")
            self._keys = self._file.list()
        except OperatorError as error:
            _log.error("keys_unusable", reason=str(error))
            return
        self._requires_key = self._requires_key or bool(self._keys)
        _log.info("keys_reloaded", active=sum(key.is_active for key in self._keys))
