"""The parameters that come in more than one form, each brought into one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter, WithJsonSchema
from pydantic_core import PydanticCustomError

from lodestream_common.parameters import PARAMETERS
from rest_bridge.schemas.fields import FIRST_BAD, RequestModel

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
