"""Values into fields of protobuf messages that may be too small for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rest_bridge.errors import ApiError, invalid
from rest_bridge.openai.inputs import RequestModel

_INT32 = 2**31 - 1
_UINT32 = 2**32 - 1
_LONGEST_NUMBER = 24
"""Digits of a number that a message still repeats."""


def set_field(
    target: Any, name: str, value: float | str | None, schema: type[RequestModel], param: str | None = None
) -> None:
    """Set a field of a message, where there is a value for it; `param` is what REST calls it.

    Raises:
        ApiError: 400, the number has more bits than the field.

    """
    if value is None:
        return
    try:
        setattr(target, name, value)
    except ValueError:
        raise _out_of_range(param or name, value, schema) from None


def extend_ids(target: Any, ids: Sequence[int], param: str) -> None:
    """Add token ids to a repeated field.

    Raises:
        ApiError: 400, one of them has more bits than the field.

    """
    try:
        target.extend(ids)
    except ValueError:
        bad = next(n for n, token in enumerate(ids) if not 0 <= token <= _UINT32)
        raise _outside(f"{param}[{bad}]", ids[bad], 0, _UINT32) from None


def _out_of_range(param: str, value: object, schema: type[RequestModel]) -> ApiError:
    documented = schema.model_json_schema()["properties"][param]
    # Where the operator sets the greatest value, the bridge knows only what the protocol has room for.
    return _outside(param, value, documented["minimum"], documented.get("maximum", _INT32))


def _outside(param: str, value: object, low: int, high: int) -> ApiError:
    number = f"is {value}" if len(str(value)) <= _LONGEST_NUMBER else "is out of range"
    return invalid(param, f"{param} {number}; it must be in [{low}, {high}].")


def json_text(value: dict[str, Any], param: str) -> str:
    """An object that came in a body, as text again: names in the same order, numbers of any size.

    Raises:
        ApiError: 400, a number in it is too large to be one.

    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise invalid(param, f"{param} holds a number that is out of range.") from None
