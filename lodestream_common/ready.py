"""A server's message to its parent process: its address when it serves, or why it cannot."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PARENT_PIPE = "LODESTREAM_PARENT_PIPE"
"""Environment variable: the descriptor of a pipe whose end of file means that the parent process has
ended."""
READY_FILE = "LODESTREAM_READY_FILE"
"""Environment variable: the path of the file that gets `{"event": "listening", "address": "host:port"}`."""


def announce_ready(address: str) -> None:
    """Write the bound `host:port` to the file in LODESTREAM_READY_FILE, if the variable is set.

    A server calls it once, when it accepts requests. Readers never see a part of the line.

    Raises:
        OSError: the file cannot be written.

    """
    name = os.environ.get(READY_FILE)
    if not name:
        return
    _write(Path(name), {"event": "listening", "address": address})


def announce_failure(message: str, details: Sequence[str] = ()) -> None:
    """Write why this server ends to the file in LODESTREAM_READY_FILE, if the variable is set.

    Args:
        message: one line.
        details: further lines, one for each thing that is wrong.

    """
    name = os.environ.get(READY_FILE)
    if name:
        _write(Path(name), {"event": "failed", "message": message, "details": list(details)})


def _write(path: Path, document: dict[str, Any]) -> None:
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(document) + "\n", encoding="utf-8")
    draft.replace(path)


def read_ready(path: Path) -> str | None:
    """Read the address that a server announced in `path`; None until then."""
    announced = _read(path)
    return str(announced["address"]) if announced.get("event") == "listening" else None


def read_failure(path: Path) -> tuple[str, Sequence[str]] | None:
    """Read why a server ended: its message and details; None if it announced no reason."""
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
