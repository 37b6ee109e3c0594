from __future__ import annotations

import json
from typing import Any

from rest_bridge.errors import invalid


def json_text(value: dict[str, Any], param: str) -> str:
    """An object that came in a body, as text again: names in the same order, numbers of any size.

    Raises:
        ApiError: 400, a number in it is too large to be one.

    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise invalid(param, f"{param} holds a number that is out of range.") from None
