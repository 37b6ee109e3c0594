"""API keys: what one is, the file that keeps them, and the ring that a running server asks.

Only the SHA-256 of a key is stored. A slow password hash would add nothing: it makes guessing costly where
secrets are guessable, and a key has 238 bits from the system's random source.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import ipaddress
import json
import os
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


VERSION = 1
_LATEST = 253_402_300_799
"""The last second of the year 9999, in seconds since the Unix epoch."""


class KeyFile:
    """The keys at `path`. Nothing is written, and no directory made, before the first `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def list(self) -> tuple[ApiKey, ...]:
        """Read every key, oldest first, revoked ones included; none where there is no file.

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
        """Store a new key, and return it with the token that is shown this once and never again.

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
        """End an active key. It stays in the file: the transports it guarded do not open.

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
        """Be the only writer, and learn what to replace: behind a symbolic link the file, not the link."""
        target = self.path.resolve()
        # The lock has a file of its own, as the key file is another one after each write.
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
    """Read the content of a key file.

    Raises:
        OperatorError: it is malformed, or of another version; the message names `path`.

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
            raise ValueError("a time is none")
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
    """Recognises API keys, and follows changes of the key file within `check_interval` seconds.

    A file that vanishes or breaks while the server runs changes nothing: the last good state counts, and
    one error is logged. A server that has been guarded once stays guarded.

    Raises:
        OperatorError: on construction, the file is there but malformed or unreadable.

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
        """Whether callers need a key: one was created once, be it revoked by now."""
        self.refresh()
        return self._guarded

    def find(self, token: str) -> ApiKey | None:
        """Recognise the key that `token` is, also one that was revoked; None if it is none."""
        self.refresh()
        return find_key(self._keys, token)

    def verify(self, token: str) -> ApiKey | None:
        """Recognise the active key that `token` is; None if it is none."""
        key = self.find(token)
        return key if key is not None and key.is_active else None

    def is_active(self, key_id: str) -> bool:
        """Whether a key exists and was not revoked."""
        self.refresh()
        return any(key.id == key_id and key.is_active for key in self._keys)

    def refresh(self) -> None:
        """Look whether the file has changed, if it is time to. Each question does so, too."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + self._check_interval
        signature = self._read_signature()
        if signature != self._signature:
            # Taken before the file is read: a change in between is seen at the next check.
            self._signature = signature
            self._reload()

    def _reload(self) -> None:
        try:
            if self._guarded and self._signature is None:
                raise OperatorError(f"keys file {self._file.path}: is gone")
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
"""Failed keys of an address that are refused at once."""
SECONDS_PER_FAILURE = 1.0
"""Until one more is."""
LONGEST_DELAY = 5.0
"""Seconds."""
_MAX_ADDRESSES = 10_000


class FailedKeys:
    """How long the refusal of a failed key has to wait, by the address that it came from.

    Five are refused at once, then one a second; those that come faster wait for their turn, at most five
    seconds each. A key that counts is never asked about here, whatever else its address sends. The addresses
    of an IPv6 network of 64 bits are one. At most 10,000 addresses are remembered, those that failed last.

    Args:
        clock: seconds, as of a monotonic clock.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()
        """Address → when all its failures so far are paid for."""

    def __len__(self) -> int:
        return len(self._due)

    def delay(self, address: str) -> float:
        """Note one failure, and tell how many seconds its refusal waits."""
        now, source = self._clock(), _source(address)
        free = FREE_FAILURES * SECONDS_PER_FAILURE
        due = max(self._due.pop(source, now), now) + SECONDS_PER_FAILURE
        self._due[source] = min(due, now + free + LONGEST_DELAY)
        if len(self._due) > _MAX_ADDRESSES:
            self._due.popitem(last=False)
        return max(0.0, self._due[source] - now - free)


def host_of_peer(peer: str) -> str:
    """The host of a peer as gRPC writes it: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`."""
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
