"""How to install what a part of lodestream takes, in the way in which lodestream itself was installed."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

_NAME = "lodestream"


def install_command(extra: str) -> str:
    """Write the shell command that installs `lodestream[extra]` into this very Python.

    It names what pip noted as the origin: a source tree, editable or not, or a wheel. Where that is gone, pip
    completes the installed package.
    """
    return shlex.join([sys.executable, "-m", "pip", "install", *_target(extra)])


def _target(extra: str) -> list[str]:
    origin = _origin()
    path = Path(unquote(urlparse(str(origin.get("url", ""))).path) or "/nowhere")
    if not path.exists():
        return [f"{_NAME}[{extra}]"]
    editable = origin.get("dir_info", {}).get("editable", False)
    return [*(["--editable"] if editable else []), f"{path}[{extra}]"]


def _origin() -> dict[str, Any]:
    """What the standard file direct_url.json (PEP 610) says; nothing where there is none."""
    try:
        text = distribution(_NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        text = None
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}
