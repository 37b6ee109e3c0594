"""The events in docs/logs.md are those in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("lodestream_common", "inference_service", "rest_bridge", "lodestream")
LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
REQUESTS = frozenset({"rpc", "request"})
"""They have a table of their own."""


def events_in_code() -> Iterator[tuple[str, frozenset[str]]]:
    """Event and fields of each call of a `_log`, where the event is written out."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                    target = ast.unparse(node.func)
                    is_ours = target.startswith("_log.") and node.func.attr in LEVELS
                    texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                    if (is_ours or target == "self._log") and texts:
                        yield str(texts[0]), frozenset(k.arg for k in node.keywords if k.arg) - {"exc_info"}


def documented() -> dict[str, set[str]]:
    """Event → its fields, by the table."""
    found = {}
    section = (ROOT / "docs" / "logs.md").read_text().partition("\n## Events\n")[2].partition("\n## ")[0]
    for row in section.splitlines():
        cells = row.strip("| ").split(" | ")
        for event in re.findall(r"`([^`]+)`", cells[0]) if row.startswith("| `") else ():
            found[event] = set(re.findall(r"`([^`]+)`", cells[3]))
    return found


def test_every_event_is_documented_with_its_fields() -> None:
    rows, code = documented(), [(e, f) for e, f in events_in_code() if e not in REQUESTS]

    assert {event for event, _ in code} | {"log_lines_dropped"} == set(rows)
    assert [(event, fields) for event, fields in code if not fields <= rows[event]] == []
