"""Functions that the model may call, the calls that it made, and what its text must be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, PlainValidator, TypeAdapter, WithJsonSchema
from pydantic_core import PydanticCustomError

from rest_bridge.openai.inputs import RequestModel, documented

MODES = ("auto", "none", "required")


def _check_function_type(name: str) -> str:
    if name != "function":
        raise PydanticCustomError("unsupported_parameter", "must be function; no other is supported here")
    return name


FunctionType = Annotated[
    str, AfterValidator(_check_function_type), WithJsonSchema({"type": "string", "enum": ["function"]})
]


class FunctionDefinition(RequestModel):
    """A function that the model may call."""

    name: str = Field(
        description="1 to 64 characters of A-Z, a-z, 0-9, _ and -.",
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]{1,64}$"},
    )
    description: str | None = documented("What it does, for the model to read.")
    parameters: dict[str, Any] | None = documented("JSON Schema of its arguments; unset: it has none.")
    strict: bool | None = documented(
        "Where calls are enforced, by `tool_choice` or beside a constraint to JSON: a schema that cannot be "
        "enforced is refused, and not loosened to any object."
    )


class Tool(RequestModel):
    """Something that the model may call."""

    type: FunctionType
    function: FunctionDefinition


class NamedFunction(RequestModel):
    """The function to call."""

    name: str


class NamedTool(RequestModel):
    """The tool to call."""

    type: FunctionType
    function: NamedFunction


class CalledFunction(RequestModel):
    """The function that was called."""

    name: str
    arguments: str = Field(
        description="A JSON object as text; unfinished or other text is passed on as it is."
    )


class CalledTool(RequestModel):
    """A call that the model made in an earlier turn."""

    id: str = Field(description="Ties the result to the call.")
    type: FunctionType = "function"
    function: CalledFunction


_NAMED = TypeAdapter(NamedTool)


def _read_choice(value: Any) -> str | NamedTool | None:
    if value is None or (isinstance(value, str) and value in MODES):
        return value
    if isinstance(value, dict):
        return _NAMED.validate_python(value, strict=True)
    raise PydanticCustomError("invalid_value", "must be auto, none, required, or an object that names a tool")


ToolChoice = Annotated[
    str | NamedTool | None,
    PlainValidator(_read_choice),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(MODES)},
                {
                    "type": "object",
                    "properties": {
                        "type": {"type": "string", "enum": ["function"]},
                        "function": {
                            "type": "object",
                            "properties": {"name": {"type": "string"}},
                            "required": ["name"],
                        },
                    },
                    "required": ["type", "function"],
                },
                {"type": "null"},
            ]
        }
    ),
]
"""Whether the model calls tools, and which."""


class Function(BaseModel):
    """The function that the model called."""

    name: str
    arguments: str = Field(
        description="A JSON object as text; cut short where the answer ended with `length`."
    )


class ToolCall(BaseModel):
    """A call that the model made."""

    id: str
    type: Literal["function"]
    function: Function


class FunctionDelta(BaseModel):
    """What is new of a call: first the name, then its arguments, piece by piece."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(BaseModel):
    """What is new of a call; its first piece has the id, the type and the function's name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


FORMATS = ("text", "json_object", "json_schema", "regex", "grammar", "ebnf")


def _check_format_type(name: str) -> str:
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
        str, AfterValidator(_check_format_type), WithJsonSchema({"type": "string", "enum": list(FORMATS)})
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
