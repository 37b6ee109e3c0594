"""The keys as a running server sees them."""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from lodestream_common.errors import OperatorError
from lodestream_common.keys.file import KeyFile
from lodestream_common.keys.key import ApiKey, find_key

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
