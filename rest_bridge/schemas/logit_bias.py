from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from lodestream_common.parameters import PARAMETERS

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")
_MOST = 2**32 - 1
_ROW = PARAMETERS["logit_bias"]


def _read(value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise PydanticCustomError("invalid_value", "must be an object")
    return {_token_id(key): _bias(bias) for key, bias in value.items()}


def _token_id(key: str) -> int:
    # Of "7" and "07" only one is taken: two entries never mean one token.
    if not _TOKEN_ID.fullmatch(key) or int(key) > _MOST:
        raise PydanticCustomError("invalid_value", "must have token ids for its names, as strings")
    return int(key)


def _bias(value: Any) -> float:
    try:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise PydanticCustomError("invalid_value", "must have finite numbers for its values")


LogitBias = Annotated[
    dict[int, float] | None,
    PlainValidator(_read),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "maxProperties": _ROW.max_items,
                    "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,9})$"},
                    "additionalProperties": {"type": "number", "minimum": _ROW.low, "maximum": _ROW.high},
                },
                {"type": "null"},
            ]
        }
    ),
]
"""Token ids, and what is added to their logits."""
