"""`lodestream usage`: sums of the receipts in a database."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lodestream_common.receipts import Gap, Receipt, SqliteStore, Writer

Lodestream = Callable[..., "subprocess.CompletedProcess[str]"]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


ONE = Receipt(
    at("2026-03-01T10:00"),
    "r",
    "k1",
    "alice",
    "small",
    "Generate",
    "ok",
    "max_tokens",
    1,
    1000,
    200,
    30,
    1.0,
    2.0,
    1.0,
    3.0,
    9.0,
)
RECEIPTS = [
    ONE,
    ONE._replace(arrived=at("2026-03-01T23:59:59.9"), outcome="cancelled", completion_tokens=7),
    ONE._replace(arrived=at("2026-03-02T00:00"), key_name="bob", model="large", cached_tokens=None),
    ONE._replace(
        arrived=at("2026-03-03"),
        key_id=None,
        key_name=None,
        model="",
        outcome="invalid_api_key",
        prompt_tokens=0,
        cached_tokens=None,
        completion_tokens=0,
    ),
]


@pytest.fixture
def database(home: Path) -> Path:
    """The default file, with receipts and a gap."""
    store = SqliteStore(home / ".local" / "state" / "lodestream" / "receipts.db")
    store.open()
    gap = Gap("overflow", at("2026-03-02T12:00"), at("2026-03-02T12:01"), 5)
    store.write(RECEIPTS, 0, [gap], Writer("run", "here", 0.0))
    store.close()
    return store.path


def test_a_table_by_key_with_the_total_and_what_is_missing(lodestream: Lodestream, database: Path) -> None:
    found = lodestream("usage")

    assert found.returncode == 0, found.stderr
    assert [line.split() for line in found.stdout.splitlines()] == [
        ["key", "requests", "ok", "cancelled", "failed", "prompt", "cached", "completion"],
        ["(unknown)", "1", "0", "0", "1", "0", "0", "0"],
        ["alice", "2", "1", "1", "0", "2,000", "400", "37"],
        ["bob", "1", "1", "0", "0", "1,000", "0", "30"],
        ["total", "4", "2", "1", "1", "3,000", "400", "67"],
    ]
    assert (
        found.stderr == "Missing: 5 receipts from 2026-03-02T12:00:00Z to 2026-03-02T12:01:00Z (overflow).\n"
    )
    assert database.stat().st_mode & 0o077 == 0


def test_csv_and_json_by_day_and_model_within_a_time(lodestream: Lodestream, database: Path) -> None:
    text = lodestream("usage", "--by", "day", "--until", "2026-03-03", "--format", "csv").stdout
    by_day = list(csv.DictReader(io.StringIO(text)))
    assert [(row["day"], row["requests"], row["completion_tokens"]) for row in by_day] == [
        ("2026-03-01", "2", "37"),
        ("2026-03-02", "1", "30"),
    ]

    later = ("--since", "2026-03-02T01:00:00+01:00", "--receipts-url", f"sqlite://{database}")
    found = json.loads(lodestream("usage", "--by", "model", "--format", "json", *later).stdout)
    assert found["by"] == "model"
    assert [(row["model"], row["requests"], row["failed"]) for row in found["rows"]] == [
        ("", 1, 1),
        ("large", 1, 0),
    ]
    assert found["gaps"][0]["receipts"] == 5


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 1, "no service has written receipts to"),
        (("--by", "week"), 2, "--by: 'week' is not one of key, model, day"),
        (("--format", "xml"), 2, "--format: 'xml'"),
        (("--since", "yesterday"), 2, "--since: 'yesterday' is no time"),
        (("--receipts-url", "off"), 2, "there are no receipts"),
        (("--receipts-url", "mysql://x"), 2, "receipts_url: has to be a path"),
    ],
)
def test_an_unreadable_database_is_an_error_of_one_line(
    lodestream: Lodestream, arguments: tuple[str, ...], status: int, words: str
) -> None:
    found = lodestream("usage", *arguments)
    assert (found.returncode, found.stderr.count("\n")) == (status, 1)
    assert words in found.stderr


def test_a_file_that_is_no_database_is_named_as_such(lodestream: Lodestream, home: Path) -> None:
    (home / "notes").write_text("no database " * 100)
    found = lodestream("usage", "--receipts-url", str(home / "notes"))
    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    assert "cannot be read" in found.stderr
