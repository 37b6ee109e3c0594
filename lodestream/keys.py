"""The commands `lodestream keys create`, `list` and `revoke`."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime

from lodestream import settings
from lodestream.parser import CommandParser
from lodestream.settings import only
from lodestream_common.config import CommonConfig
from lodestream_common.errors import SettingError
from lodestream_common.keys import ApiKey, KeyFile, Level

_LEVELS = [level.value for level in Level]


def create(arguments: Sequence[str]) -> int:
    """Make a key. Only the key goes to stdout; explanations go to stderr."""
    parser = CommandParser(
        "keys create",
        "Makes an API key and prints it once: only its hash is stored. As soon as one key exists, both "
        "servers require a key with every request; running servers notice it within a second.",
        only("keys_file"),
        ["lodestream keys create --name alice", "KEY=$(lodestream keys create --name ci --level read-only)"],
        operands="--name NAME [--level LEVEL]",
    )
    parser.add_argument("--name", required=True, help="1 to 64 printable characters; names the key in logs")
    parser.add_argument(
        "--level",
        default=Level.READ_WRITE.value,
        metavar="{" + ",".join(_LEVELS) + "}",
        help="permissions: read-only lists models, read-write also generates, admin may do everything "
        "[default: read-write]",
    )
    parsed = parser.parse(arguments)
    level = _level(parsed.level)
    file = _key_file(parsed)
    key, token = file.create(parsed.name, level)
    print(token)
    print(
        f"Created {key.id} ({key.name}, {key.level.value}) in {file.path}.\n"
        f"The key above is shown only once. Callers send it as: Authorization: Bearer pg_...",
        file=sys.stderr,
    )
    return 0


def show(arguments: Sequence[str]) -> int:
    """Print a table of the keys."""
    parser = CommandParser(
        "keys list",
        "Lists the API keys, oldest first, revoked ones included. The keys themselves are not stored.",
        only("keys_file"),
        operands="[--json]",
    )
    parser.add_argument("--json", action="store_true", help="a JSON array instead of a table")
    parsed = parser.parse(arguments)
    rows = [_row(key) for key in _key_file(parsed).list()]
    if parsed.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        _print_table(rows)
    else:
        print("No keys: the servers are open, on loopback only.", file=sys.stderr)
    return 0


def revoke(arguments: Sequence[str]) -> int:
    """Revoke a key."""
    parser = CommandParser(
        "keys revoke",
        "Revokes an API key. Running servers refuse it within a second. It stays in the list, and the "
        "servers still require a key, even if it was the last one.",
        only("keys_file"),
        ["lodestream keys revoke alice"],
        operands="NAME|ID",
    )
    parser.add_argument(
        "key", metavar="NAME|ID", help="the key's name or id, as `lodestream keys list` shows it"
    )
    parsed = parser.parse(arguments)
    key = _key_file(parsed).revoke(parsed.key)
    print(f"Revoked {key.id} ({key.name}).", file=sys.stderr)
    return 0


def _key_file(parsed: Namespace) -> KeyFile:
    return KeyFile(settings.load(CommonConfig, parsed).keys_file)


def _level(text: str) -> Level:
    if text not in _LEVELS:
        raise SettingError(f"--level: {text!r} is not one of {', '.join(_LEVELS)}")
    return Level(text)


def _row(key: ApiKey) -> dict[str, str]:
    created = datetime.fromtimestamp(key.created, UTC)
    return {
        "id": key.id,
        "name": key.name,
        "level": key.level.value,
        "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "state": "active" if key.is_active else "revoked",
    }


def _print_table(rows: Sequence[dict[str, str]]) -> None:
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
