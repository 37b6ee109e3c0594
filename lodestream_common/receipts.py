"""Receipts of requests, and the database that keeps them: a SQLite file, or PostgreSQL by URL.

One receipt is one generation RPC of the service, refused and aborted ones included. No text is kept.
"""

from __future__ import annotations

import os
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from lodestream_common.errors import OperatorError, SettingError, install_command

OFF = "off"
"""The value of `receipts_url` that switches receipts off."""
_STALE_SECONDS = 300.0
"""A writer that was not seen for so long has ended, whatever its address was."""
_LOCK_SECONDS = 2.0
"""Seconds that SQLite waits for another process that writes."""
_CONNECT_SECONDS = 5
_ROWS = 50
"""Receipts in one statement: SQLite before 3.32 takes 999 values."""

By = Literal["key", "model", "day"]


def state_home() -> Path:
    """The directory of what is kept between runs (XDG base directory specification)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "lodestream"


def default_file() -> Path:
    """The SQLite file of a service without a `receipts_url`."""
    return state_home() / "receipts.db"


class Receipt(NamedTuple):
    """The usage of one request. Times in milliseconds are None where the request did not reach the queue."""

    arrived: float
    """Seconds since the Unix epoch."""
    request_id: str
    """Of the caller, or generated; a caller can use one twice."""
    key_id: str | None
    """None: the call had no valid key."""
    key_name: str | None
    model: str
    """The served id; empty: the request was refused before its model was known."""
    method: str
    """The RPC."""
    outcome: str
    """`ok`, `cancelled`, or the reason of the error in lower case."""
    finish: str
    """The stop causes of the choices that ended, joined by commas."""
    choices: int
    prompt_tokens: int
    """0 where the request was refused before the queue."""
    cached_tokens: int | None
    """Of the prompt's tokens, those that the KV cache held; None: the engine does not report it."""
    completion_tokens: int
    """Tokens that the engine decoded, also where the request was aborted."""
    queue_ms: float | None
    ttft_ms: float | None
    prefill_ms: float | None
    decode_ms: float | None
    total_ms: float


GAP_CAUSES = ("overflow", "rejected", "crash")
"""The causes of gaps; see `Gap`."""


class Gap(NamedTuple):
    """Receipts that are missing."""

    cause: str
    """`overflow`: the queue was full; `rejected`: the database refused the values; `crash`: a service ended
    without writing what it had."""
    began: float
    """Seconds since the Unix epoch; so is `ended`."""
    ended: float
    receipts: int | None
    """The number of receipts; None: it is not known."""


@dataclass(frozen=True, slots=True)
class Writer:
    """One run of a service."""

    run: str
    """Unique."""
    server: str
    """Host and address, which a restarted service has again."""
    began: float


@dataclass(frozen=True, slots=True)
class Sums:
    """The usage of the requests of one key, model or day."""

    group: str
    requests: int
    ok: int
    cancelled: int
    failed: int
    """Refused, or ended with an error."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


_NAMES = ", ".join(Receipt._fields)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS lodestream_receipts (
    id {identity}, run TEXT NOT NULL, number BIGINT NOT NULL, arrived DOUBLE PRECISION NOT NULL,
    request_id TEXT NOT NULL, key_id TEXT, key_name TEXT,
    model TEXT NOT NULL, method TEXT NOT NULL, outcome TEXT NOT NULL, finish TEXT NOT NULL,
    choices BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, cached_tokens BIGINT,
    completion_tokens BIGINT NOT NULL, queue_ms DOUBLE PRECISION, ttft_ms DOUBLE PRECISION,
    prefill_ms DOUBLE PRECISION, decode_ms DOUBLE PRECISION, total_ms DOUBLE PRECISION NOT NULL,
    UNIQUE (run, number)
);
CREATE INDEX IF NOT EXISTS lodestream_receipts_by_request ON lodestream_receipts (request_id);
CREATE INDEX IF NOT EXISTS lodestream_receipts_by_arrival ON lodestream_receipts (arrived);
CREATE TABLE IF NOT EXISTS lodestream_receipt_gaps (
    id {identity}, cause TEXT NOT NULL, began DOUBLE PRECISION NOT NULL, ended DOUBLE PRECISION NOT NULL,
    receipts BIGINT
);
CREATE TABLE IF NOT EXISTS lodestream_receipt_writers (
    run TEXT PRIMARY KEY, server TEXT NOT NULL, began DOUBLE PRECISION NOT NULL,
    seen DOUBLE PRECISION NOT NULL
)
"""
_ADD_GAP = "INSERT INTO lodestream_receipt_gaps (cause, began, ended, receipts) VALUES (?, ?, ?, ?)"


class Store(ABC):
    """A database of receipts. One thread uses a store at a time.

    Args:
        can_create: whether `open` makes what is missing.

    """

    identity: str
    """The type of an id that the database counts up."""
    mark: str
    """The placeholder of a value in a statement."""
    day: str
    """The expression of a receipt's day in UTC."""
    rejections: tuple[type[Exception], ...]
    """The errors that the same values meet again."""
    errors: tuple[type[Exception], ...]
    """The errors of a database that cannot be used."""

    def __init__(self, *, can_create: bool = True) -> None:
        self._connection: Any = None
        self._can_create = can_create

    @abstractmethod
    def _connect(self) -> Any:
        """A connection of the database's library."""

    @abstractmethod
    def reader(self) -> Store:
        """A store of the same database, with a connection of its own, which makes nothing."""

    def open(self) -> None:
        """Connect, and make what is missing. An open store stays as it is."""
        if self._connection is not None:
            return
        self._connection = self._connect()
        if not self._can_create:
            return
        try:
            with self._transaction() as run:
                for statement in _SCHEMA.format(identity=self.identity).split(";"):
                    run(statement)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect; `open` connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def write(self, receipts: Sequence[Receipt], first: int, gaps: Sequence[Gap], writer: Writer) -> None:
        """Write all or nothing, and that the writer is alive.

        Args:
            receipts: the new ones.
            first: the number of the first one, counted from the start of the writer. A number that is there
                already is skipped: its transaction succeeded, and the connection broke before the answer.
            gaps: the new ones.
            writer: which writes.

        """
        row = f"({', '.join('?' * (len(Receipt._fields) + 2))})"
        now = time.time()
        with self._transaction() as run:
            run(
                "INSERT INTO lodestream_receipt_writers (run, server, began, seen) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (run) DO UPDATE SET seen = excluded.seen",
                [(writer.run, writer.server, writer.began, now)],
            )
            # Many rows a statement: each statement gives up the interpreter's lock, and waits to get it back.
            for begin in range(0, len(receipts), _ROWS):
                rows = receipts[begin : begin + _ROWS]
                values = [
                    (writer.run, number, *receipt) for number, receipt in enumerate(rows, first + begin)
                ]
                run(
                    f"INSERT INTO lodestream_receipts (run, number, {_NAMES}) "  # noqa: S608
                    f"VALUES {', '.join([row] * len(rows))} ON CONFLICT DO NOTHING",
                    [tuple(chain.from_iterable(values))],
                )
            run(_ADD_GAP, gaps)

    def begin(self, writer: Writer) -> list[Gap]:
        """Write a gap for each writer that has crashed: one at the same address, or one long not seen."""
        with self._transaction() as run:
            seen = run(
                "DELETE FROM lodestream_receipt_writers "
                "WHERE run <> ? AND (server = ? OR seen < ?) RETURNING seen",
                [(writer.run, writer.server, writer.began - _STALE_SECONDS)],
            ).fetchall()
            gaps = [Gap("crash", last, writer.began, None) for (last,) in seen]
            run(_ADD_GAP, gaps)
        return gaps

    def end(self, writer: Writer) -> None:
        """Say that a writer has written all that it had."""
        with self._transaction() as run:
            run("DELETE FROM lodestream_receipt_writers WHERE run = ?", [(writer.run,)])

    def delete_before(self, arrived: float, limit: int) -> int:
        """Delete at most `limit` receipts, and the gaps, that are older. Returns how many receipts."""
        with self._transaction() as run:
            run("DELETE FROM lodestream_receipt_gaps WHERE ended < ?", [(arrived,)])
            found: int = run(
                "DELETE FROM lodestream_receipts WHERE id IN "
                "(SELECT id FROM lodestream_receipts WHERE arrived < ? LIMIT ?)",
                [(arrived, limit)],
            ).rowcount
        return found

    def find(self, request_id: str, key_id: str) -> Receipt | None:
        """The newest receipt of a request of a key."""
        with self._transaction() as run:
            row = run(
                f"SELECT {_NAMES} FROM lodestream_receipts WHERE request_id = ? AND key_id = ? "  # noqa: S608
                "ORDER BY id DESC LIMIT 1",
                [(request_id, key_id)],
            ).fetchone()
        return None if row is None else Receipt(*row)

    def sums(self, by: By, since: float, until: float) -> list[Sums]:
        """The usage of the requests that arrived from `since` to before `until`, by group."""
        group = {"key": "COALESCE(key_name, '')", "model": "model", "day": self.day}[by]
        with self._transaction() as run:
            rows = run(
                f"SELECT {group}, COUNT(*), SUM(CASE WHEN outcome = 'ok' THEN 1 ELSE 0 END), "  # noqa: S608
                "SUM(CASE WHEN outcome = 'cancelled' THEN 1 ELSE 0 END), "
                "SUM(CASE WHEN outcome IN ('ok', 'cancelled') THEN 0 ELSE 1 END), SUM(prompt_tokens), "
                "SUM(COALESCE(cached_tokens, 0)), SUM(completion_tokens) FROM lodestream_receipts "
                "WHERE arrived >= ? AND arrived < ? GROUP BY 1 ORDER BY 1",
                [(since, until)],
            ).fetchall()
        return [Sums(str(name), *map(int, counts)) for name, *counts in rows]

    def gaps(self, since: float, until: float) -> list[Gap]:
        """The gaps that overlap this time."""
        with self._transaction() as run:
            rows = run(
                "SELECT cause, began, ended, receipts FROM lodestream_receipt_gaps "
                "WHERE ended >= ? AND began < ? ORDER BY id",
                [(since, until)],
            ).fetchall()
        return [Gap(*row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Yield what runs a statement, once for each tuple of values, and returns the cursor."""
        cursor = self._connection.cursor()

        def run(statement: str, values: Sequence[tuple[Any, ...]] | None = None) -> Any:
            statement = statement.replace("?", self.mark)
            if values is None:
                cursor.execute(statement)
            elif len(values) == 1:
                cursor.execute(statement, values[0])
            elif values:
                cursor.executemany(statement, values)
            return cursor

        try:
            yield run
            self._connection.commit()
        except BaseException:
            with suppress(Exception):
                self._connection.rollback()
            raise
        finally:
            with suppress(Exception):
                cursor.close()


class SqliteStore(Store):
    """One file, in WAL mode, so that readers and the writer do not wait for each other.

    Args:
        path: of the file.
        can_create: whether `open` makes what is missing, the file and its directory, too.

    """

    identity = "INTEGER PRIMARY KEY"
    mark = "?"
    day = "date(arrived, 'unixepoch')"
    rejections = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError)
    errors = (sqlite3.Error, OSError)

    def __init__(self, path: Path, *, can_create: bool = True) -> None:
        super().__init__(can_create=can_create)
        self.path = path.absolute()

    def reader(self) -> SqliteStore:
        return SqliteStore(self.path, can_create=False)

    def _connect(self) -> sqlite3.Connection:
        if self._can_create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Who used the service how much is nobody else's business on this machine.
            self.path.touch(mode=0o600)
        mode = "rwc" if self._can_create else "rw"
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=_LOCK_SECONDS, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            # A commit is on the disk, also if the machine crashes; a batch makes it cheap.
            connection.execute("PRAGMA synchronous=FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection


class PostgresStore(Store):
    """A PostgreSQL database.

    Raises:
        OperatorError: psycopg is not installed.

    """

    identity = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    mark = "%s"
    day = "to_char(to_timestamp(arrived) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"

    def __init__(self, url: str, *, can_create: bool = True) -> None:
        super().__init__(can_create=can_create)
        try:
            import psycopg
        except ImportError:
            raise OperatorError(
                f"receipts_url: PostgreSQL needs psycopg; run: {install_command('postgres')}"
            ) from None
        self._library = psycopg
        self._url = url
        self.rejections = (psycopg.DataError, psycopg.IntegrityError, UnicodeError)
        self.errors = (psycopg.Error,)

    def reader(self) -> PostgresStore:
        return PostgresStore(self._url, can_create=False)

    def _connect(self) -> Any:
        return self._library.connect(
            self._url, connect_timeout=_CONNECT_SECONDS, application_name="lodestream receipts"
        )


def store_of(url: str | None, *, can_create: bool = True) -> Store:
    """The store of a URL or path; it is not open yet.

    Args:
        url: None for the default file, `sqlite:///absolute/path`, a path, or `postgresql://...`.
        can_create: whether the store makes what is missing.

    Raises:
        SettingError: it is none of these.
        OperatorError: psycopg is not installed.

    """
    if url is None:
        return SqliteStore(default_file(), can_create=can_create)
    if url.startswith(("postgresql://", "postgres://")):
        return PostgresStore(url, can_create=can_create)
    if url.startswith("sqlite://"):
        path = unquote(urlsplit(url).path)
        if not path.strip("/"):
            raise SettingError("receipts_url: a SQLite URL is sqlite:///absolute/path")
        return SqliteStore(Path(path), can_create=can_create)
    if "://" in url or not url:
        # The text is not repeated: it may hold a password.
        raise SettingError(
            "receipts_url: has to be a path, sqlite:///absolute/path, postgresql://..., or off"
        )
    return SqliteStore(Path(url).expanduser(), can_create=can_create)
