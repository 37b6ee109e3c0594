"""The command `lodestream usage`: sums of the usage receipts, read from their database."""

from __future__ import annotations

import csv
import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from inference_service.config import ServiceConfig
from lodestream import settings
from lodestream.parser import CommandParser
from lodestream.settings import only
from lodestream_common.errors import OperatorError, SettingError
from lodestream_common.receipts import OFF, By, Gap, SqliteStore, Sums, store_of

_GROUPS: dict[str, By] = {"key": "key", "model": "model", "day": "day"}
_FORMATS = ("table", "csv", "json")
_HEADINGS = ("requests", "ok", "cancelled", "failed", "prompt", "cached", "completion")
_ABOUT = (
    "Sums up the usage receipts that services keep, by name of the key, by model or by day (UTC): requests, "
    "those that were ok, cancelled by the caller, or failed or refused, and their tokens. It reads the "
    "database directly, also while services write to it."
)
_EXAMPLES = (
    "lodestream usage",
    "lodestream usage --by day --since 2026-11-01 --format csv",
    "lodestream usage --by model --receipts-url postgresql://db.internal/lodestream",
)


def run(arguments: Sequence[str]) -> int:
    """Print the sums. What is missing from them is named on stderr."""
    parsed = _parse(arguments)
    by, since, until = _group(parsed.by), _time("--since", parsed.since), _time("--until", parsed.until)
    if parsed.format not in _FORMATS:
        raise SettingError(f"--format: {parsed.format!r} is not one of {', '.join(_FORMATS)}")
    url = settings.load(ServiceConfig, parsed).receipts_url
    rows, gaps = _read(url, by, 0.0 if since is None else since, time.time() + 60 if until is None else until)
    if parsed.format == "json":
        shown = [{by: row["group"], **_without_group(row)} for row in map(asdict, rows)]
        print(json.dumps({"by": by, "rows": shown, "gaps": [gap._asdict() for gap in gaps]}, indent=2))
    elif parsed.format == "csv":
        _print_csv(by, rows)
    else:
        _print_table(by, rows)
    for gap in gaps:
        print(_sentence(gap), file=sys.stderr)
    return 0


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = CommandParser(
        "usage",
        _ABOUT,
        only("receipts_url"),
        _EXAMPLES,
        operands="[--by GROUP] [--since TIME] [--until TIME] [--format FORMAT]",
    )
    parser.add_argument("--by", default="key", metavar="{key,model,day}", help="the groups [default: key]")
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="first arrival, as 2026-11-01 or 2026-11-01T08:00:00+01:00; else in UTC",
    )
    parser.add_argument("--until", metavar="TIME", help="arrivals before this time only")
    parser.add_argument(
        "--format", default="table", metavar="{table,csv,json}", help="of the output [default: table]"
    )
    return parser.parse(arguments)


def _group(text: str) -> By:
    if text not in _GROUPS:
        raise SettingError(f"--by: {text!r} is not one of {', '.join(_GROUPS)}")
    return _GROUPS[text]


def _time(flag: str, text: str | None) -> float | None:
    """Seconds since the Unix epoch."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise SettingError(f"{flag}: {text!r} is no time such as 2026-11-01 or 2026-11-01T08:00:00") from None


def _read(url: str | None, by: By, since: float, until: float) -> tuple[list[Sums], list[Gap]]:
    if url == OFF:
        raise SettingError("receipts_url: off; there are no receipts")
    store = store_of(url, can_create=False)
    if isinstance(store, SqliteStore) and not store.path.is_file():
        raise OperatorError(f"no service has written receipts to {store.path} yet; see --receipts-url")
    try:
        store.open()
        return store.sums(by, since, until), store.gaps(since, until)
    except store.errors as error:
        raise OperatorError(f"receipts_url: the database cannot be read: {error}") from error
    finally:
        store.close()


def _without_group(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != "group"}


def _print_csv(by: By, rows: Sequence[Sums]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = [name for name in Sums.__dataclass_fields__ if name != "group"]
    writer.writerow([by, *names])
    for row in rows:
        writer.writerow([row.group, *(getattr(row, name) for name in names)])


def _print_table(by: By, rows: Sequence[Sums]) -> None:
    names = [name for name in Sums.__dataclass_fields__ if name != "group"]
    numbers = [[getattr(row, name) for name in names] for row in rows]
    groups = [row.group or "(unknown)" for row in rows]
    if len(rows) > 1:
        groups.append("total")
        numbers.append([sum(column) for column in zip(*numbers, strict=True)])
    cells = [[by, *_HEADINGS], *([g, *(f"{n:,}" for n in ns)] for g, ns in zip(groups, numbers, strict=True))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        right = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([f"{first:<{widths[0]}}", *right]))


def _sentence(gap: Gap) -> str:
    count = "an unknown number of" if gap.receipts is None else str(gap.receipts)
    began, ended = (
        datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for at in (gap.began, gap.ended)
    )
    return f"Missing: {count} receipts from {began} to {ended} ({gap.cause})."
