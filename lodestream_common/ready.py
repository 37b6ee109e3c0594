"""How a server tells whoever started it that it serves, and where."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
    path = Path(name)
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps({"event": "listening", "address": address}) + "\n", encoding="utf-8")
    draft.replace(path)


def read_ready(path: Path) -> str | None:
    """Read the address that a server announced in `path`; None as long as it has not."""
    try:
        announced = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return str(announced["address"])
