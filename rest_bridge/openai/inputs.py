"""Parameters that come in more than one form, each brought into one.

Every range check lives in the service. What the schemas say of ranges and defaults is the table of
parameters, which the service checks by.
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

FIRST_BAD = FailFast()
"""Reads an array up to its first bad element: a body of nothing else must not cost seconds."""


class RequestModel(BaseModel):
    """A JSON object from a caller: strict types, unset and null alike, unknown names kept for the policy."""

    # An error must never carry what the caller sent.
    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, hide_input_in_errors=True, frozen=True
    )


def documented(description: str, **schema: Any) -> Any:
    """Declare an optional parameter; `schema` goes into its JSON schema and checks nothing."""
    return Field(default=None, description=description, json_schema_extra=_extra(schema))


def parameter(name: str, meaning: str | None = None, **schema: Any) -> Any:
    """Declare an optional parameter as the table of parameters has it; the service checks it.

    Args:
        name: of a row of the table.
        meaning: for callers; None: the table's.
        schema: beside or instead of what the table says.

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
        found |= {"enum": list(row.values), "default": row.values[0]}
    if row.default is not None:
        found["default"] = row.default
    return documented(meaning or row.meaning, **{**found, **schema})


def _extra(schema: dict[str, Any]) -> Any:
    def complete(found: dict[str, Any]) -> None:
        # Null is accepted everywhere and means unset; it is no default worth showing.
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
"""Who speaks; `developer` is `system` by another name."""


class TextPart(RequestModel):
    """A piece of a message's text."""

    type: Annotated[
        str, AfterValidator(_check_part_type), WithJsonSchema({"type": "string", "enum": ["text"]})
    ]
    text: str = Field(description="The piece; nothing is put between two of them.")


class RefusalPart(RequestModel):
    """The refusal of an assistant's earlier turn."""

    type: Annotated[Literal["refusal"], WithJsonSchema({"type": "string", "enum": ["refusal"]})]
    refusal: str = Field(description="Its text.")


Part = TextPart | RefusalPart


def _read_part(value: Any) -> Part:
    is_refusal = isinstance(value, dict) and value.get("type") == "refusal"
    schema: type[TextPart] | type[RefusalPart] = RefusalPart if is_refusal else TextPart
    return schema.model_validate(value, strict=True)


_PARTS: TypeAdapter[list[Part]] = TypeAdapter(
    Annotated[list[Annotated[Part, PlainValidator(_read_part)]], FIRST_BAD]
)
_TEXTS: TypeAdapter[list[str]] = TypeAdapter(Annotated[list[str], FIRST_BAD])
_IDS = TypeAdapter(Annotated[list[int], FIRST_BAD])
_ID_LISTS: TypeAdapter[list[list[int]]] = TypeAdapter(
    Annotated[list[Annotated[list[int], FIRST_BAD]], FIRST_BAD]
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
    if len(value) > MAX_PROMPTS:  # the service's own limit; an endless array must not get that far
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
"""The text of a message: whole, or in pieces."""

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
"""Up to four texts that end the generation."""

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
"""One prompt or more, each text or token ids; a single one may come without the array."""


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
