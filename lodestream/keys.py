"""The commands `lodestream keys create`, `list`, `rotate` and `revoke`."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime

from lodestream import settings
from lodestream.parser import CommandParser
from lodestream.settings import only
from lodestream_common.config import CommonConfig
from lodestream_common.errors import SettingError
from lodestream_common.keys import MOST, ApiKey, KeyFile, KeyLimits, Level, Priority

_LEVELS = [level.value for level in Level]
_PRIORITIES = [priority.value for priority in Priority]
_DURATION = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def create(arguments: Sequence[str]) -> int:
    """Make a key. Only the key goes to stdout; explanations go to stderr."""
    parser = CommandParser(
        "keys create",
        "Makes an API key and prints it once: only its hash is stored. As soon as one key exists, both "
        "servers require a key with every request; running servers notice it within a second.",
        only("keys_file"),
        [
            "lodestream keys create --name alice",
            "KEY=$(lodestream keys create --name ci --level read-only)",
            "lodestream keys create --name trial --expires 30d --requests-per-minute 20 --max-concurrent 2",
        ],
        operands="--name NAME [--level LEVEL] [--expires DURATION] [--requests-per-minute N] "
        "[--tokens-per-minute N] [--max-concurrent N] [--priority PRIORITY] [--models NAME,NAME]",
    )
    parser.add_argument("--name", required=True, help="1 to 64 printable characters; names the key in logs")
    parser.add_argument(
        "--level",
        default=Level.READ_WRITE.value,
        metavar="{" + ",".join(_LEVELS) + "}",
        help="permissions: read-only lists models, read-write also generates, admin may do everything "
        "[default: read-write]",
    )
    _add_settings(parser)
    parsed = parser.parse(arguments)
    level = Level(_one_of(_LEVELS, parsed.level, "--level"))
    priority = Priority(_one_of(_PRIORITIES, parsed.priority, "--priority"))
    lifetime = None if parsed.expires is None else _seconds(parsed.expires, "--expires", least=1)
    file = _key_file(parsed)
    key, token = file.create(
        parsed.name,
        level,
        lifetime=lifetime,
        limits=_limits(parsed),
        models=_models(parsed.models),
        priority=priority,
    )
    print(token)
    print(
        f"Created {key.id} ({key.name}, {key.level.value}) in {file.path}.{_until(key)}\n"
        f"The key above is shown only once. Callers send it as: Authorization: Bearer pg_...",
        file=sys.stderr,
    )
    return 0


def _add_settings(parser: CommandParser) -> None:
    """The options of a key beside its name and its level."""
    parser.add_argument(
        "--expires",
        metavar="DURATION",
        help="how long it is valid, as 90m, 12h, 30d or 8w [default: forever]",
    )
    parser.add_argument(
        "--requests-per-minute",
        metavar="N",
        help="its requests a minute; 0: no limit [default: the server's]",
    )
    parser.add_argument(
        "--tokens-per-minute",
        metavar="N",
        help="its tokens a minute, of prompts and of output; 0: no limit [default: no limit]",
    )
    parser.add_argument(
        "--max-concurrent",
        metavar="N",
        help="its generations that run or wait at once in one service; 0: no limit [default: no limit]",
    )
    parser.add_argument(
        "--priority",
        default=Priority.INTERACTIVE.value,
        metavar="{" + ",".join(_PRIORITIES) + "}",
        help="interactive goes before batch where requests wait [default: interactive]",
    )
    parser.add_argument(
        "--models", metavar="NAME,NAME", help="the models that it may use, by id or alias [default: all]"
    )


def show(arguments: Sequence[str]) -> int:
    """Print a table of the keys."""
    parser = CommandParser(
        "keys list",
        "Lists the API keys, oldest first, revoked and expired ones included. The keys themselves are not "
        "stored.",
        only("keys_file"),
        operands="[--json]",
    )
    parser.add_argument("--json", action="store_true", help="a JSON array instead of a table")
    parsed = parser.parse(arguments)
    keys = _key_file(parsed).list()
    if parsed.json:
        print(json.dumps([_row(key) for key in keys], indent=2))
    elif keys:
        _print_table(keys)
    else:
        print("No keys: the servers are open, on loopback only.", file=sys.stderr)
    return 0


def rotate(arguments: Sequence[str]) -> int:
    """Make a successor of a key. Only the new key goes to stdout; explanations go to stderr."""
    parser = CommandParser(
        "keys rotate",
        "Makes a new API key with the name and the settings of an active one, and prints it once. The older "
        "key expires after the overlap. A key with an expiry gets a successor with the same lifetime.",
        only("keys_file"),
        ["lodestream keys rotate alice --overlap 1h"],
        operands="NAME [--overlap DURATION]",
    )
    parser.add_argument("name", metavar="NAME", help="the key's name, as `lodestream keys list` shows it")
    parser.add_argument(
        "--overlap",
        default="1h",
        metavar="DURATION",
        help="how long the older key stays valid, as 0s, 15m or 1d [default: 1h]",
    )
    parsed = parser.parse(arguments)
    key, token, old = _key_file(parsed).rotate(parsed.name, _seconds(parsed.overlap, "--overlap"))
    print(token)
    print(
        f"Created {key.id} ({key.name}).{_until(key)} {old.id} expires at {_time(old.expires)}.",
        file=sys.stderr,
    )
    return 0


def revoke(arguments: Sequence[str]) -> int:
    """Revoke a key."""
    parser = CommandParser(
        "keys revoke",
        "Revokes an API key, by name also one that was rotated and has not expired. Running servers refuse "
        "it within a second. It stays in the list, and the servers still require a key, even if it was the "
        "last one.",
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


def _one_of(choices: Sequence[str], text: str, option: str) -> str:
    if text not in choices:
        raise SettingError(f"{option}: {text!r} is not one of {', '.join(choices)}")
    return text


def _seconds(text: str, option: str, least: int = 0) -> int:
    match = _DURATION.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else -1
    if seconds < least:
        raise SettingError(f"{option}: {text!r} is no duration from {least}s, as 90m, 12h, 30d or 8w")
    return seconds


def _limits(parsed: Namespace) -> KeyLimits:
    def number(name: str) -> int | None:
        text, most = getattr(parsed, name), getattr(MOST, name)
        if text is None:
            return None
        if not re.fullmatch("[0-9]{1,12}", text) or int(text) > most:
            raise SettingError(f"--{name.replace('_', '-')}: {text!r} is no integer from 0 to {most}")
        return int(text)

    return KeyLimits(number("requests_per_minute"), number("tokens_per_minute"), number("max_concurrent"))


def _models(text: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise SettingError("--models: names no model")
    return names


def _until(key: ApiKey) -> str:
    return "" if key.expires is None else f" It expires at {_time(key.expires)}."


def _time(seconds: int | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _state(key: ApiKey) -> str:
    if key.revoked is not None:
        return "revoked"
    return "expired" if key.has_expired else "active"


def _row(key: ApiKey) -> dict[str, str | int | list[str] | None]:
    """A key for JSON: None and an empty list stand for settings that it does not have."""
    return {
        "id": key.id,
        "name": key.name,
        "level": key.level.value,
        "created": _time(key.created),
        "state": _state(key),
        "expires": None if key.expires is None else _time(key.expires),
        "requests_per_minute": key.limits.requests_per_minute,
        "tokens_per_minute": key.limits.tokens_per_minute,
        "max_concurrent": key.limits.max_concurrent,
        "priority": key.priority.value,
        "models": list(key.models),
    }


_HEADINGS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "max_concurrent": "at once",
}
_ALWAYS = ("id", "name", "level", "created", "state")
_USUAL: tuple[object, ...] = (None, [], Priority.INTERACTIVE.value)
"""The value of a key without the setting."""


def _cells(key: ApiKey, columns: Sequence[str]) -> list[str]:
    row = _row(key)
    values = [
        ",".join(value) if isinstance(value, list) else value for value in map(row.__getitem__, columns)
    ]
    return ["-" if value in (None, "") else str(value) for value in values]


def _print_table(keys: Sequence[ApiKey]) -> None:
    """Print the columns that every key has, and those that some key has."""
    rows = [_row(key) for key in keys]
    columns = [name for name in rows[0] if name in _ALWAYS or any(row[name] not in _USUAL for row in rows)]
    table = [[_HEADINGS.get(name, name) for name in columns], *(_cells(key, columns) for key in keys)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
