"""What the whole text of each choice must be.

Enforced while tokens are chosen: a choice that ends with `FinishReason.STOP`, and not by a stop sequence
or stop token, complies. The service refuses what it cannot enforce.
"""

from __future__ import annotations

from dataclasses import dataclass

from lodestream.inference.v1 import generation_pb2

from inference_client.fields import JsonSchemaSource, schema_text, set_field


@dataclass(frozen=True, slots=True)
class JsonObject:
    """Any JSON object."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """JSON that validates against a schema."""

    schema: JsonSchemaSource
    """A JSON Schema, or its text: at most 64 KiB."""


@dataclass(frozen=True, slots=True)
class Regex:
    """Text that a regular expression matches as a whole."""

    pattern: str
    """The expression, 1 character or more."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """Text that a grammar generates from its rule `root`."""

    source: str
    """EBNF in the GBNF notation."""


Constraint = JsonObject | JsonSchema | Regex | Grammar


def write_constraint(message: generation_pb2.Constraint, constraint: Constraint) -> None:
    """Fill a message in.

    Raises:
        TypeError: it is no constraint, or holds a value of the wrong type.
        ValueError: it holds what is not text, or not JSON.

    """
    if isinstance(constraint, JsonObject):
        message.json_object = True
    elif isinstance(constraint, JsonSchema):
        set_field(message, "json_schema", schema_text(constraint.schema, "constraint.schema"))
    elif isinstance(constraint, Regex):
        set_field(message, "regex", constraint.pattern, "constraint.pattern")
    elif isinstance(constraint, Grammar):
        set_field(message, "grammar", constraint.source, "constraint.source")
    else:
        raise TypeError("constraint must be JsonObject, JsonSchema, Regex or Grammar.")
