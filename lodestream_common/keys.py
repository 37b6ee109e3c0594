"""API keys: their file, the key ring of a running server, and the delay after failed keys.

Only the SHA-256 of a key is stored. A slow password hash makes it costly to guess weak secrets. A key has 238
bits from the system's random source, so nobody can guess it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import string
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import structlog

from lodestream_common.errors import OperatorError

PREFIX = "pg_"
_ALPHABET = string.ascii_letters + string.digits
_SECRET_LENGTH = 40
_LONGEST_TOKEN = 256
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([\x21-\x7e]{1,1024}) *")


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


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored, without the token itself."""

    id: str
    """`key_` and 12 hexadecimal digits; logs may have it."""
    name: str
    """1 to 64 printable characters; no other active key has it."""
    level: Level
    digest: str = field(repr=False)
    """SHA-256 of the token, 64 hexadecimal digits."""
    created: int
    """Seconds since the Unix epoch."""
    revoked: int | None = None
    """Seconds since the Unix epoch; None: the key is active."""

    @property
    def is_active(self) -> bool:
        """Whether the key is not revoked."""
        return self.revoked is None


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

    def create(self, name: str, level: Level = Level.READ_WRITE) -> tuple[ApiKey, str]:
        """Store a new key, and return it with its token, which is not stored.

        Raises:
            OperatorError: the name is malformed or taken, or the file cannot be written.

        """
        _check_name(name)
        token = new_token()
        key = ApiKey(new_id(), name, level, digest_of(token), created=int(time.time()))
        with self._locked() as target:
            keys = self.list()
            if any(name in (other.id, other.name) for other in keys if other.is_active):
                raise OperatorError(f"a key named {name!r} exists already; revoke it, or choose another name")
            self._write(target, (*keys, key))
        return key, token

    def revoke(self, name_or_id: str) -> ApiKey:
        """Revoke an active key. It stays in the file, so that the servers still require keys.

        Raises:
            OperatorError: no active key has this name or id, or the file cannot be written.

        """
        with self._locked() as target:
            keys = self.list()
            key = next((k for k in keys if k.is_active and name_or_id in (k.id, k.name)), None)
            if key is None:
                raise OperatorError(
                    f"no active key has the name or id {name_or_id!r}; see: lodestream keys list"
                )
            revoked = replace(key, revoked=int(time.time()))
            self._write(target, tuple(revoked if k.id == key.id else k for k in keys))
        return revoked

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
    entries = [{**asdict(key), "level": key.level.value} for key in keys]
    return (json.dumps({"version": VERSION, "keys": entries}, indent=2) + "\n").encode()


def _parse_key(entry: dict[str, Any]) -> ApiKey:
    kinds: dict[str, Any] = {"id": str, "name": str, "digest": str, "created": int, "revoked": int | None}
    if not all(isinstance(entry[field], kind) for field, kind in kinds.items()):
        raise ValueError("a field of a key has the wrong type")
    if len(bytes.fromhex(entry["digest"])) != 32:
        raise ValueError("the digest of a key has the wrong length")
    if not (_is_name(entry["name"]) and _is_name(entry["id"])):
        raise ValueError("the name or the id of a key is malformed")
    for when in (entry["created"], entry["revoked"]):
        if isinstance(when, bool) or not 0 <= (when or 0) <= _LATEST:
            raise ValueError("a time is out of range")
    return ApiKey(**{**entry, "level": Level(entry["level"])})


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
        self._check_interval = check_interval
        self._signature = self._read_signature()
        self._keys = self._file.list()
        self._guarded = bool(self._keys)
        self._next_check = time.monotonic() + check_interval

    @property
    def guarded(self) -> bool:
        """Whether callers need a key: a key was created, even if it is revoked now."""
        self.refresh()
        return self._guarded

    def find(self, token: str) -> ApiKey | None:
        """Find the key of a token, also a revoked one; None: the token is unknown."""
        self.refresh()
        return find_key(self._keys, token)

    def verify(self, token: str) -> ApiKey | None:
        """Find the active key of a token; None: it is unknown or revoked."""
        key = self.find(token)
        return key if key is not None and key.is_active else None

    def is_active(self, key_id: str) -> bool:
        """Whether a key exists and is not revoked."""
        self.refresh()
        return any(key.id == key_id and key.is_active for key in self._keys)

    def refresh(self) -> None:
        """Read the file again if it has changed, at most once each `check_interval`. Every other method calls
        this.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + self._check_interval
        signature = self._read_signature()
        if signature != self._signature:
            # The signature is older than the content, so that the next check finds a change in between.
            self._signature = signature
            self._reload()

    def _reload(self) -> None:
        try:
            if self._guarded and self._signature is None:
                raise OperatorError(f"keys file {self._file.path}: is missing")
            self._keys = self._file.list()
        except OperatorError as error:
            _log.error("keys file unusable; the keys known so far still count", reason=str(error))
            return
        self._guarded = self._guarded or bool(self._keys)
        _log.info("keys reloaded", active=sum(key.is_active for key in self._keys))

    def _read_signature(self) -> tuple[int, ...] | None:
        try:
            stat = self._file.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


FREE_FAILURES = 5
"""Failed keys of one address that are refused without delay."""
SECONDS_PER_FAILURE = 1.0
"""Seconds after which one more failed key is refused without delay."""
MAX_DELAY = 5.0
"""Seconds of the longest delay of a refusal."""
_MAX_ADDRESSES = 10_000


class FailedKeys:
    """The delay of refusals of failed keys, by the caller's address.

    Five failed keys of an address are refused without delay, then one each second. Faster ones wait, at most
    five seconds each. A valid key is never delayed, whatever else its address sends. All addresses of an IPv6
    network of 64 bits count as one. Only the last 10,000 addresses are stored.

    Args:
        clock: a monotonic clock, in seconds.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()
        """Address → the time from which on it has no delay any more."""

    def __len__(self) -> int:
        return len(self._due)

    def delay(self, address: str) -> float:
        """Record one failed key; the result is the delay of its refusal in seconds."""
        now, free = self._clock(), FREE_FAILURES * SECONDS_PER_FAILURE

        def update(due: float) -> float:
            return min(max(due, now) + SECONDS_PER_FAILURE, now + free + MAX_DELAY)

        return max(0.0, self.exchange(_source(address), update) - now - free)

    def exchange(self, source: str, update: Callable[[float], float]) -> float:
        """Replace the time from which on an address has no delay, and return the new one.

        Args:
            source: the address.
            update: makes the new time from the old one; that of a new address is 0.

        """
        self._due[source] = due = update(self._due.pop(source, 0.0))
        if len(self._due) > _MAX_ADDRESSES:
            self._due.popitem(last=False)
        return due


def bearer_token(authorization: str | None) -> str | None:
    """The token of an `authorization: Bearer …` header; None: it is missing or malformed."""
    match = _BEARER.fullmatch(authorization or "")
    return match[1] if match else None


def host_of_peer(peer: str) -> str:
    """The host in gRPC's name of a peer: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`."""
    kind, _, rest = peer.partition(":")
    return unquote(rest).rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind


def _source(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False))
