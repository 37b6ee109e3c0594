"""What the request lines of both servers have in common: names that are safe in a line."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9._:/@+-]{1,128}")


def loggable_name(name: object) -> str | None:
    """The name of a model as a request has it, for the log.

    Args:
        name: any value of the request.

    Returns:
        The name; None where it is empty, longer than 128 characters, or has others than letters, digits and
        `._:/@+-` of ASCII: it may then be text that belongs in no log.

    """
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None
