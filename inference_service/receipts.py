"""Writes a receipt of each generation RPC to a database, from a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any
from uuid import uuid4

import structlog

from inference_service.config import ServiceConfig
from inference_service.errors import NotReady
from inference_service.rpc.call import RpcCall
from lodestream_common.errors import OperatorError
from lodestream_common.receipts import (
    OFF,
    Gap,
    Receipt,
    SqliteStore,
    Store,
    Writer,
    store_of,
)

METHODS = frozenset({"Generate", "GenerateStream", "SmgGenerate"})
"""The RPCs that get a receipt."""
QUEUE_LIMIT = 10_000
"""Most receipts that wait for the database; about 5 MB."""
_BATCH = 1000
_GATHER_SECONDS = 0.25
"""Seconds for which receipts are gathered for one transaction; a crash loses those."""
_SEEN_SECONDS = 10.0
"""An idle writer writes at least so often that it is alive."""
_RETRY_SECONDS = 0.5
_CLOSE_SECONDS = 5.0
_CLEAN_SECONDS = 3600.0
_CLEAN_LIMIT = 10_000

_log = structlog.get_logger(__name__)


def receipt_of(call: RpcCall, outcome: str) -> Receipt:
    """The receipt of an RPC that ended."""
    facts: dict[str, Any] = call.facts
    seconds, caller = call.elapsed_seconds, call.caller
    # A prompt that did not come to the queue costs nothing; the metrics do not count it either.
    queued = "queue_ms" in facts
    return Receipt(
        arrived=time.time() - seconds,
        request_id=call.request_id,
        key_id=caller.key_id if caller else None,
        key_name=caller.key_name if caller else None,
        model=facts.get("model", ""),
        method=call.method,
        outcome=outcome,
        finish=facts.get("finish") or "",
        choices=facts.get("choices", 0),
        prompt_tokens=facts["prompt_tokens"] if queued else 0,
        cached_tokens=facts.get("cached_tokens"),
        completion_tokens=facts.get("completion_tokens", 0),
        queue_ms=facts.get("queue_ms"),
        ttft_ms=facts.get("ttft_ms"),
        prefill_ms=facts.get("prefill_ms"),
        decode_ms=facts.get("decode_ms"),
        total_ms=round(seconds * 1e3, 1),
    )


class Receipts:
    """Takes receipts without ever waiting, and writes them in batches.

    Args:
        store: where to.
        server: host and address of the service.
        days: how long receipts are kept; 0: without end.
        on_dropped: called with the number of receipts that are lost, from any thread.
        on_gap: called with the cause of each gap that is written to the database, from the thread.
        limit: most receipts that wait.

    """

    def __init__(
        self,
        store: Store,
        server: str,
        *,
        days: int = 0,
        on_dropped: Callable[[int], object] = lambda _: None,
        on_gap: Callable[[str], object] = lambda _: None,
        limit: int = QUEUE_LIMIT,
    ) -> None:
        self._store = store
        self._writer = Writer(uuid4().hex, server, time.time())
        self._days = days
        self._on_dropped = on_dropped
        self._on_gap = on_gap
        self._limit = limit
        self._waiting: deque[Receipt] = deque()
        self._gaps: dict[str, Gap] = {}
        """Cause → what was lost since the last successful write."""
        self._lock = threading.Lock()
        """Guards the two above; held for microseconds only."""
        self._wake, self._closing = threading.Event(), threading.Event()
        self._taken = 0
        """The number of receipts that left the queue for the database."""
        self._is_failing = False
        self._has_begun = False
        self._clean_at = 0.0
        self._thread = threading.Thread(target=self._run, name="receipts", daemon=True)

    def start(self) -> None:
        """Start the thread, which says in the database at once that it is there."""
        self._wake.set()
        self._thread.start()

    def close(self) -> None:
        """Write what waits, within a few seconds, and end the thread."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)
        if self._waiting:
            self._on_dropped(len(self._waiting))
            _log.error("receipts_lost", receipts=len(self._waiting))

    def observe(self, call: RpcCall, outcome: str) -> None:
        """Take the receipt of an RPC that ended."""
        if call.method in METHODS:
            self.add(receipt_of(call, outcome))

    def add(self, receipt: Receipt) -> None:
        """Take a receipt; where the queue is full, it is counted as lost."""
        with self._lock:
            is_full = len(self._waiting) >= self._limit
            if not is_full:
                self._waiting.append(receipt)
        if is_full:
            self._lose("overflow", 1)
        if not self._wake.is_set():
            self._wake.set()

    def note_crash(self) -> None:
        """Note that another process of this service ended without handing over the receipts of its calls."""
        now = time.time()
        self._keep({"crash": Gap("crash", now, now, None)})
        self._wake.set()

    async def find(self, request_id: str, key_id: str) -> Receipt | None:
        """The newest receipt of a request of a key, also where it is not written yet.

        Raises:
            NotReady: the database does not answer.

        """
        with self._lock:
            waiting = [r for r in self._waiting if r.request_id == request_id and r.key_id == key_id]
        return waiting[-1] if waiting else await asyncio.to_thread(self._read, request_id, key_id)

    def _read(self, request_id: str, key_id: str) -> Receipt | None:
        store = self._store.reader()
        try:
            store.open()
            return store.find(request_id, key_id)
        except Exception as error:
            _log.warning("receipts_unreadable", error=type(error).__name__)
            raise NotReady("its receipts cannot be read") from error
        finally:
            store.close()

    def _run(self) -> None:
        while True:
            self._wake.wait(_SEEN_SECONDS)
            self._closing.wait(_GATHER_SECONDS)
            self._wake.clear()
            is_written = self._write_all()
            if self._closing.is_set():
                break
            if not is_written:
                self._closing.wait(_RETRY_SECONDS)
                self._wake.set()
        if is_written:
            self._try(lambda: self._store.end(self._writer))
        self._store.close()

    def _write_all(self) -> bool:
        """Write everything that waits; False where the database fails."""
        most = _BATCH
        while True:
            with self._lock:
                batch = list(islice(self._waiting, most))
                gaps, self._gaps = self._gaps, {}
            error = self._try(lambda: self._write(batch, list(gaps.values())))  # noqa: B023  it runs now
            if error is None:
                self._take(len(batch))
            else:
                self._keep(gaps)
                if not isinstance(error, self._store.rejections):
                    return False
                if len(batch) > 1:
                    # One by one, so that the others of the batch are kept.
                    most = 1
                    continue
                self._take(len(batch))
                self._lose("rejected", len(batch))
                most = _BATCH
            if not self._waiting:
                return error is None and self._try(self._clean) is None

    def _take(self, count: int) -> None:
        with self._lock:
            for _ in range(count):
                self._waiting.popleft()
        self._taken += count

    def _write(self, batch: list[Receipt], gaps: list[Gap]) -> None:
        self._store.open()
        if not self._has_begun:
            for gap in self._store.begin(self._writer):
                _log.warning("receipts_missing", cause=gap.cause, seconds=round(gap.ended - gap.began, 1))
                self._on_gap(gap.cause)
            self._has_begun = True
        self._store.write(batch, self._taken, gaps, self._writer)
        for gap in gaps:
            self._on_gap(gap.cause)

    def _clean(self) -> None:
        if self._days and time.monotonic() >= self._clean_at:
            deleted = self._store.delete_before(time.time() - self._days * 86400, _CLEAN_LIMIT)
            self._clean_at = time.monotonic() + (0 if deleted == _CLEAN_LIMIT else _CLEAN_SECONDS)

    def _try(self, work: Callable[[], object]) -> Exception | None:
        """Do some work on the database. Returns its error, and logs where it begins or ceases to fail."""
        try:
            work()
        except Exception as error:
            self._store.close()
            if not self._is_failing:
                # The text of an error of PostgreSQL can hold values and the user's name.
                text = str(error) if isinstance(error, sqlite3.Error) else type(error).__name__
                _log.error("receipts_unwritable", error=text)
            self._is_failing = True
            return error
        if self._is_failing:
            _log.info("receipts_writable")
        self._is_failing = False
        return None

    def _lose(self, cause: str, count: int) -> None:
        now = time.time()
        is_first = cause not in self._gaps
        self._keep({cause: Gap(cause, now, now, count)})
        self._on_dropped(count)
        if is_first:
            _log.error("receipts_dropped", cause=cause)

    def _keep(self, gaps: dict[str, Gap]) -> None:
        """Add to what was lost since the last successful write."""
        with self._lock:
            for cause, gap in gaps.items():
                known = self._gaps.get(cause)
                self._gaps[cause] = gap if known is None else _joined(known, gap)


def _joined(one: Gap, other: Gap) -> Gap:
    unknown = one.receipts is None or other.receipts is None
    receipts = None if unknown else (one.receipts or 0) + (other.receipts or 0)
    return Gap(one.cause, min(one.began, other.began), max(one.ended, other.ended), receipts)


def open_receipts(
    config: ServiceConfig,
    address: str,
    on_dropped: Callable[[int], object],
    on_gap: Callable[[str], object],
) -> Receipts | None:
    """Start to write receipts as the settings say; None: they are off, or the default file cannot be used.

    Args:
        config: the settings.
        address: where the service listens.
        on_dropped: called with the number of receipts that are lost.
        on_gap: called with the cause of each gap that is written to the database.

    Raises:
        OperatorError: the URL is malformed, or its SQLite file cannot be used.

    """
    if config.receipts_url == OFF:
        return None
    store = store_of(config.receipts_url)
    if isinstance(store, SqliteStore):
        # A database server may come later; a file that cannot be written now stays so.
        try:
            store.open()
        except store.errors as error:
            if config.receipts_url is None:
                _log.warning("no_receipts", reason=f"{store.path} cannot be written: {error}")
                return None
            raise OperatorError(f"receipts_url: {store.path} cannot be used: {error}") from error
    receipts = Receipts(
        store,
        f"{socket.gethostname()} {address}",
        days=config.receipts_days,
        on_dropped=on_dropped,
        on_gap=on_gap,
    )
    receipts.start()
    return receipts
