"""Speeds and faults of the double.

`rank0.engine` holds them as a JSON object, for every request; a directive in a prompt's text, as in
`@sim(fail_at=5, tps=20)`, holds them for that request. N is counted in tokens from 0.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

_DIRECTIVE = re.compile(r"@sim\(([a-z_=0-9., ]*)\)")


@dataclass(frozen=True, slots=True)
class Script:
    """The speed and the faults of the engine."""

    prefill_tps: float = 0.0
    """Prompt tokens a second; 0: no delay."""
    tps: float = 0.0
    """Tokens a second of each request; 0: no delay."""
    fail_at: int | None = None
    """The request fails before token N."""
    stall_at: int | None = None
    """No token from N on, and no error."""
    die_at: int | None = None
    """The engine dies before token N."""
    timeout_at: int | None = None
    """The engine ends the request with `timeout` before token N."""
    cancel_at: int | None = None
    """The engine cancels the request by itself before token N."""
    ignore_abort: float = 0.0
    """Seconds for which an abort has no effect."""
    end_id: int | None = None
    """The token that ends an answer; None: the tokenizer's own."""
    refuse_to_load: str = ""
    """The constructor fails with this message."""
    kv_blocks: int = 4096
    """Size of the KV cache."""


_KINDS = {field.name: str(field.type) for field in fields(Script)}


def read_script(engine: Path) -> Script:
    """Read the script of an engine file."""
    return Script(**json.loads(engine.read_text()))


def directed(script: Script, prompt: str) -> Script:
    """The script with the changes of the prompt's directive.

    Raises:
        ValueError: the directive cannot be read.

    """
    found = _DIRECTIVE.search(prompt)
    if found is None:
        return script
    changes: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in found.group(1).split(","))):
        name, _, value = part.partition("=")
        if name == "ignore_cancel":
            name, value = "ignore_abort", "1"
        if name not in _KINDS:
            raise ValueError(f"unknown fault {part!r}")
        changes[name] = float(value) if _KINDS[name] == "float" else int(value)
    return replace(script, **changes)  # type: ignore[arg-type]
