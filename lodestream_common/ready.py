"""How a server tells whoever started it that it serves, and where; or why it cannot."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PARENT_PIPE = "LODESTREAM_PARENT_PIPE"
"""Environment variable: the descriptor whose end is the end of the process that started this one."""
READY_FILE = "LODESTREAM_READY_FILE"
"""Environment variable: the file that gets `{"event": "listening", "address": "host:port"}`."""


def announce_ready(address: str) -> None:
    """Write the bound `host:port` to the file named by LODESTREAM_READY_FILE; without one, do nothing.

    A server calls it once, when a request sent to `address` would be answered. Readers never see half
    of the line.

    Raises:
        OSError: the file cannot be written.

    """
    name = os.environ.get(READY_FILE)
    if not name:
        return
    _write(Path(name), {"event": "listening", "address": address})


def announce_failure(message: str, details: Sequence[str] = ()) -> None:
    """Tell the file named by LODESTREAM_READY_FILE why this server ends; without one, do nothing.

    Args:
        message: one line.
        details: more lines, one for each thing that is wrong.

    """
    name = os.environ.get(READY_FILE)
    if name:
        _write(Path(name), {"event": "failed", "message": message, "details": list(details)})


def _write(path: Path, document: dict[str, Any]) -> None:
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(document) + "\n", encoding="utf-8")
    draft.replace(path)


def read_ready(path: Path) -> str | None:
    """Read the address that a server announced in `path`; None as long as it has not."""
    announced = _read(path)
    return str(announced["address"]) if announced.get("event") == "listening" else None


def read_failure(path: Path) -> tuple[str, Sequence[str]] | None:
    """Read why a server ended, its line and more lines; None where it did not say."""
    announced = _read(path)
    if announced.get("event") != "failed":
        return None
    return str(announced["message"]), [str(line) for line in announced["details"]]


def _read(path: Path) -> dict[str, Any]:
    try:
        announced: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return announced
