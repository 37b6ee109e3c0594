"""The keywords of JSON Schema: which there are here, and what their values must look like."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.limits import MOST_CHOICES, MOST_PROPERTIES, MOST_REPETITIONS
from inference_service.grammar.schema.source import inside

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

GROUPS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "object": frozenset(
            {
                "additionalProperties",
                "maxProperties",
                "minProperties",
                "patternProperties",
                "properties",
                "propertyNames",
                "required",
            }
        ),
        "array": frozenset({"items", "maxItems", "minItems", "prefixItems", "uniqueItems"}),
        "string": frozenset({"format", "maxLength", "minLength", "pattern"}),
        "number": frozenset({"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"}),
    }
)
"""Keywords that say something about values of one type only."""

_ANNOTATIONS = frozenset(
    {
        "$comment",
        "default",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
_ROOT_ONLY = frozenset({"$id", "$schema"})
_LONGEST_SHOWN = 40
_MOST_NUMBER = sys.float_info.max
"""Larger ones are infinite to most readers of JSON."""


def constraints(schema: Mapping[str, Any], path: str, *, is_root: bool) -> dict[str, Any]:
    """What a schema demands: its keywords without annotations and definitions, their values checked.

    Raises:
        ConstraintError: a keyword is not supported, or has a value that it cannot have.

    """
    found: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _ANNOTATIONS or keyword.startswith("x-") or (is_root and keyword in _ROOT_ONLY):
            continue
        check = _CHECKS.get(keyword)
        if check is None:
            shown = json.dumps(keyword[:_LONGEST_SHOWN])
            raise ConstraintError(f"the keyword {shown} is not supported", path)
        expected = check(value)
        if expected:
            raise ConstraintError(f"{keyword} must be {expected}", inside(path, keyword))
        if keyword not in ("$defs", "definitions"):
            found[keyword] = value
    return found


def _object(value: Any) -> str:
    return "" if isinstance(value, dict) else "an object"


def _properties(value: Any) -> str:
    fits = isinstance(value, dict) and len(value) <= MOST_PROPERTIES
    return "" if fits else f"an object of at most {MOST_PROPERTIES} members"


def _schema(value: Any) -> str:
    return "" if isinstance(value, dict | bool) else "a schema (an object or a boolean)"


def _branches(value: Any) -> str:
    fits = isinstance(value, list) and 0 < len(value) <= MOST_CHOICES
    return "" if fits else f"an array of 1 to {MOST_CHOICES} elements"


def _types(value: Any) -> str:
    names = value if isinstance(value, list) and value else [value]
    fits = all(isinstance(name, str) and name in TYPES for name in names)
    return "" if fits else f"one or several of {', '.join(TYPES)}"


def _names(value: Any) -> str:
    fits = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return "" if fits and len(value) <= MOST_PROPERTIES else f"an array of at most {MOST_PROPERTIES} strings"


def _count(value: Any) -> str:
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    fits = is_whole and 0 <= value <= MOST_REPETITIONS
    return "" if fits else f"an integer from 0 to {MOST_REPETITIONS}"


def _number(value: Any) -> str:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST_NUMBER
    return "" if fits else "a finite number"


def _positive(value: Any) -> str:
    return "" if not _number(value) and value > 0 else "a number greater than 0"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "a string"


def _boolean(value: Any) -> str:
    return "" if isinstance(value, bool) else "a boolean"


def _anything(_value: object) -> str:
    return ""


_CHECKS: Mapping[str, Callable[[Any], str]] = MappingProxyType(
    {
        "$defs": _object,
        "$ref": _text,
        "additionalProperties": _schema,
        "allOf": _branches,
        "anyOf": _branches,
        "const": _anything,
        "definitions": _object,
        "enum": _branches,
        "exclusiveMaximum": _number,
        "exclusiveMinimum": _number,
        "format": _text,
        "items": _schema,
        "maxItems": _count,
        "maxLength": _count,
        "maxProperties": _count,
        "maximum": _number,
        "minItems": _count,
        "minLength": _count,
        "minProperties": _count,
        "minimum": _number,
        "multipleOf": _positive,
        "oneOf": _branches,
        "pattern": _text,
        "patternProperties": _properties,
        "prefixItems": _branches,
        "properties": _properties,
        "propertyNames": _schema,
        "required": _names,
        "type": _types,
        "uniqueItems": _boolean,
    }
)
