"""What the text of an answer must be, in OpenAI's words and in those of other servers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from rest_bridge.schemas.fields import RequestModel, documented

FORMATS = ("text", "json_object", "json_schema", "regex", "grammar", "ebnf")


def _check_type(name: str) -> str:
    if name not in FORMATS:
        raise PydanticCustomError("invalid_value", f"must be one of {', '.join(FORMATS)}")
    return name


def _read_schema(value: Any) -> dict[str, Any] | str | None:
    if value is None or isinstance(value, dict | str):
        return value
    raise PydanticCustomError("invalid_value", "must be a JSON Schema: an object, or one as text")


class JsonSchemaFormat(RequestModel):
    """A JSON Schema that the answer validates against."""

    name: str | None = documented("Your own name for it; the model does not see it.")
    description: str | None = documented("Without effect: the model does not see it.")
    schema_: dict[str, Any] = Field(alias="schema", description="The schema, at most 64 KiB as text.")
    strict: bool | None = documented("The schema is enforced whatever this says.")


class ResponseFormat(RequestModel):
    """What the answer must be."""

    type: Annotated[
        str, AfterValidator(_check_type), WithJsonSchema({"type": "string", "enum": list(FORMATS)})
    ]
    json_schema: JsonSchemaFormat | None = documented("Required with the type `json_schema`.")
    regex: str | None = documented("Required with the type `regex`: what matches the whole answer.")
    grammar: str | None = documented("Required with the type `grammar`: GBNF with a rule `root`.")
    ebnf: str | None = documented("Required with the type `ebnf`: the same as `grammar`.")


SchemaOrText = Annotated[
    dict[str, Any] | str | None,
    PlainValidator(_read_schema),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}),
]
"""A JSON Schema, as an object or as text."""
