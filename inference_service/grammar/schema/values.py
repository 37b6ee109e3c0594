"""Values and types as JSON Schema compares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference_service.grammar.schema.keywords import GROUPS, TYPES


def types_of(names: str | list[str]) -> set[str]:
    """The types that a `type` allows; a number may also be an integer."""
    found = {names} if isinstance(names, str) else set(names)
    return found | {"integer"} if "number" in found else found


def types_in(schema: Mapping[str, Any]) -> set[str]:
    """The types of the values that are generated for a schema.

    Without `type`, the values that its other keywords speak of; all, if there are no others.
    """
    if "type" in schema:
        return types_of(schema["type"])
    spoken_of = {name for name, group in GROUPS.items() if group & schema.keys()}
    return types_of(list(spoken_of)) if spoken_of else set(TYPES)


def type_of(value: object) -> str:
    """The narrowest type of a value: 1.0 is an integer."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "null" if value is None else "array" if isinstance(value, list) else "object"


def same_value(one: Any, other: Any) -> bool:
    """Whether two values are equal in JSON: 1 is 1.0 and not true."""
    if type_of(one) != type_of(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
    return bool(one == other)
