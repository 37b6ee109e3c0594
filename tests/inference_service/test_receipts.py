"""The writer of receipts on real SQLite files: lost receipts are counted, and no request waits for it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from inference_service.receipts import Receipts
from lodestream_common.errors import OperatorError, SettingError
from lodestream_common.receipts import Receipt, SqliteStore, Writer, default_file, store_of
from tests.support.service import running_service


def receipt(name: str, arrived: float | None = None) -> Receipt:
    at = time.time() if arrived is None else arrived
    return Receipt(
        at, name, "id", "key", "m", "Generate", "ok", "max_tokens", 1, 3, None, 5, 1.0, 2.0, 1.0, 4.0, 7.0
    )


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute("SELECT COUNT(*) FROM lodestream_receipts").fetchone()[0]
        return found


def soon(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_with_a_locked_file_nothing_waits_and_lost_receipts_become_a_gap(tmp_path: Path) -> None:
    path, dropped = tmp_path / "receipts.db", list[int]()
    store = SqliteStore(path)
    store.open()
    receipts = Receipts(store, "here", on_dropped=dropped.append, limit=5)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        receipts.start()
        began = time.monotonic()
        for number in range(12):
            receipts.add(receipt(str(number)))
        assert time.monotonic() - began < 1
        assert sum(dropped) == 7
        other.execute("ROLLBACK")
    soon(lambda: count(path) == 5)
    receipts.add(receipt("last"))
    receipts.close()

    store = SqliteStore(path)
    store.open()
    assert [(gap.cause, gap.receipts) for gap in store.gaps(0, 1e12)] == [("overflow", 7)]
    assert store.find("last", "id") is not None
    assert store.find("last", "other") is None
    assert store.find("11", "id") is None
    store.close()


def test_refused_receipts_are_counted_and_do_not_block_others(tmp_path: Path) -> None:
    dropped: list[int] = []
    receipts = Receipts(SqliteStore(tmp_path / "receipts.db"), "here", on_dropped=dropped.append)
    for name in ("earlier", "no text \ud800", "later"):
        receipts.add(receipt(name))
    receipts.start()
    soon(lambda: sum(dropped) == 1)
    receipts.add(receipt("good"))
    receipts.close()

    store = SqliteStore(tmp_path / "receipts.db")
    store.open()
    assert all(store.find(name, "id") for name in ("earlier", "later", "good"))
    assert [(gap.cause, gap.receipts) for gap in store.gaps(0, 1e12)] == [("rejected", 1)]
    store.close()


def test_old_receipts_are_deleted_and_a_repeated_batch_is_kept_once(tmp_path: Path) -> None:
    path, now = tmp_path / "receipts.db", time.time()
    store, writer = SqliteStore(path), Writer("run", "elsewhere", now)
    store.open()
    for _ in range(2):
        store.write([receipt("old", now - 3 * 86400), receipt("young", now - 86400)], 0, [], writer)
    store.close()
    assert count(path) == 2

    receipts = Receipts(SqliteStore(path), "here", days=2)
    receipts.start()
    receipts.close()
    assert count(path) == 1


async def test_a_default_file_that_cannot_be_written_is_a_warning_and_a_set_one_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(blocked))
    async with running_service():
        pass
    with pytest.raises(OperatorError, match=r"receipts_url: .*receipts.db cannot be used"):
        async with running_service(receipts_url=str(default_file())):
            pass


@pytest.mark.parametrize("url", ["mysql://root:secret@host/db", "sqlite://", "sqlite:///", ""])
def test_an_invalid_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SettingError) as error:
        store_of(url)
    assert "secret" not in str(error.value)
