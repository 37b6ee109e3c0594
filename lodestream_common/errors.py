"""The errors that are reported to the operator in one line, and the pip command that some of them advise.

OperatorError       something that only the operator can correct
└── SettingError    a setting is unknown or malformed
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse


class OperatorError(Exception):
    """Expected: only the operator can correct it. The message is one line: what is wrong, and what to do.

    The command line prints it as `lodestream: <message>`, without a traceback, and exits with `exit_status`.

    Args:
        message: one line.
        details: further lines below the message, one for each thing that is wrong.

    """

    exit_status = 1

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class SettingError(OperatorError):
    """Expected: a flag, environment variable or key of the settings file is unknown or malformed."""

    exit_status = 2


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
