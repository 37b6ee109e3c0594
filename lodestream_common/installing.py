"""The pip command that installs an extra of lodestream, from the origin that lodestream was installed
from.
"""

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
    """Write the shell command that installs `lodestream[extra]` into this Python.

    It names the origin that pip recorded: a source tree, editable or not, or a wheel. If that is missing, it
    names the package.
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
    """The content of direct_url.json (PEP 610); empty if there is none."""
    try:
        text = distribution(_NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        text = None
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}
