"""The base of all request schemas, and the parameters that callers may write in more than one form.

The service checks all ranges. The schemas only document them, from the same table of parameters.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from lodestream_common.parameters import PARAMETERS

STOP_AT_FIRST_ERROR = FailFast()
"""Validates an array up to its first bad element: an array of bad elements must not take seconds."""


class RequestModel(BaseModel):
    """A JSON object of a request: types are strict, null means unset, undeclared members are kept."""

    # An error must never contain input of the caller.
    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, hide_input_in_errors=True, frozen=True
    )


def documented(description: str, **schema: Any) -> Any:
    """Declare an optional parameter; `schema` is added to its JSON schema, and is not checked."""
    return Field(default=None, description=description, json_schema_extra=_extra(schema))


def parameter(name: str, meaning: str | None = None, **schema: Any) -> Any:
    """Declare an optional parameter with the range and default of the table; the service checks them.

    Args:
        name: the parameter's name in the table.
        meaning: description for callers; None: the table's.
        schema: members of the JSON schema that replace or extend the table's.

    """
    row = PARAMETERS[name]
    found: dict[str, Any] = {}
    if row.type in ("number", "integer"):
        low = "exclusiveMinimum" if row.excludes_low else "minimum"
        found |= {low: row.low, "maximum": row.high}
    if row.type == "array" and row.max_items is not None:
        found["maxItems"] = row.max_items
    if row.type == "string" and row.max_length is not None:
        found["maxLength"] = row.max_length
    if row.values:
        found["default"] = row.values[0]
    if row.default is not None:
        found["default"] = row.default
    return documented(meaning or row.meaning, **{**found, **schema})


def _extra(schema: dict[str, Any]) -> Any:
    def complete(found: dict[str, Any]) -> None:
        # Null means unset everywhere, so it is not documented as a default.
        if found.get("default", ...) is None:
            del found["default"]
        found.update(schema)

    return complete


MAX_PROMPTS = PARAMETERS["prompt"].max_items or 0
_MAX_STOPS = PARAMETERS["stop"].max_items
ROLES = ("system", "developer", "user", "assistant", "tool")


def _check_role(role: str) -> str:
    if role == "function":
        raise PydanticCustomError("unsupported_parameter", "is a role that is not supported here")
    if role not in ROLES:
        raise PydanticCustomError("invalid_value", f"must be one of {', '.join(ROLES)}")
    return role


def _check_part_type(name: str) -> str:
    if name != "text":
        raise PydanticCustomError("unsupported_parameter", "must be text; no other content is supported here")
    return name


Role = Annotated[str, AfterValidator(_check_role), WithJsonSchema({"type": "string", "enum": list(ROLES)})]
"""The role of a message; `developer` is another name of `system`."""


class TextPart(RequestModel):
    """A part of a message's text."""

    type: Annotated[
        str, AfterValidator(_check_part_type), WithJsonSchema({"type": "string", "enum": ["text"]})
    ]
    text: str = Field(description="The text; parts are joined without a separator.")


class RefusalPart(RequestModel):
    """A refusal in an earlier turn of the assistant."""

    type: Annotated[Literal["refusal"], WithJsonSchema({"type": "string", "enum": ["refusal"]})]
    refusal: str = Field(description="The text of the refusal.")


Part = TextPart | RefusalPart


def _read_part(value: Any) -> Part:
    is_refusal = isinstance(value, dict) and value.get("type") == "refusal"
    schema: type[TextPart] | type[RefusalPart] = RefusalPart if is_refusal else TextPart
    return schema.model_validate(value, strict=True)


_PARTS: TypeAdapter[list[Part]] = TypeAdapter(
    Annotated[list[Annotated[Part, PlainValidator(_read_part)]], STOP_AT_FIRST_ERROR]
)
_TEXTS: TypeAdapter[list[str]] = TypeAdapter(Annotated[list[str], STOP_AT_FIRST_ERROR])
_IDS = TypeAdapter(Annotated[list[int], STOP_AT_FIRST_ERROR])
_ID_LISTS: TypeAdapter[list[list[int]]] = TypeAdapter(
    Annotated[list[Annotated[list[int], STOP_AT_FIRST_ERROR]], STOP_AT_FIRST_ERROR]
)


def _read_content(value: Any) -> str | list[Part] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return _PARTS.validate_python(value, strict=True)
    raise PydanticCustomError("invalid_value", "must be a string or an array of text parts")


def _read_stop(value: Any) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return _TEXTS.validate_python(value, strict=True)
    raise PydanticCustomError("invalid_value", "must be a string or an array of strings")


def _read_prompt(value: Any) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise PydanticCustomError("invalid_value", "must be text, token ids, or an array of one of them")
    if not isinstance(value[0], str | list):
        return [_IDS.validate_python(value, strict=True)]
    if len(value) > MAX_PROMPTS:  # the service's own limit, checked before a large array costs time
        raise PydanticCustomError("invalid_value", f"holds {len(value)} prompts; it may hold {MAX_PROMPTS}")
    return list((_TEXTS if isinstance(value[0], str) else _ID_LISTS).validate_python(value, strict=True))


_TEXT = {"type": "string"}
_ID_ARRAY = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}

Content = Annotated[
    str | list[Part] | None,
    PlainValidator(_read_content),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {
                    "type": "array",
                    "items": {"anyOf": [TextPart.model_json_schema(), RefusalPart.model_json_schema()]},
                },
                {"type": "null"},
            ]
        }
    ),
]
"""The text of a message: a string, or an array of parts."""

Stop = Annotated[
    list[str] | None,
    PlainValidator(_read_stop),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, "maxItems": PARAMETERS["stop"].max_items},
                {"type": "null"},
            ]
        }
    ),
]
"""Up to four stop sequences."""

Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(_read_prompt),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                _ID_ARRAY,
                {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_PROMPTS},
                {"type": "array", "items": _ID_ARRAY, "minItems": 1, "maxItems": MAX_PROMPTS},
            ]
        }
    ),
]
"""One or more prompts, each a text or token ids; a single one may stand without the array."""


_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_TOKEN_ID = 2**32 - 1
_ROW = PARAMETERS["logit_bias"]


def _read_logit_bias(value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise PydanticCustomError("invalid_value", "must be an object")
    return {_token_id(key): _bias(bias) for key, bias in value.items()}


def _token_id(key: str) -> int:
    # "07" is refused: no two members may mean the same token.
    if not _TOKEN_ID.fullmatch(key) or int(key) > _MAX_TOKEN_ID:
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
    PlainValidator(_read_logit_bias),
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
"""Token ids, each with the number that is added to its logit."""
