"""The file of API keys: JSON, mode 0600, replaced as a whole, written by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lodestream_common.errors import OperatorError
from lodestream_common.keys.key import ApiKey, Level, digest_of, new_id, new_token

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
        """End an active key. It stays in the file: the doors it guarded do not open.

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
