"""Checks a document against a JSON schema, as far as this room's own schemas go.

Known are: type, const, enum, pattern, minimum, minLength, required, properties, additionalProperties,
propertyNames, items, and references into `$defs`. A keyword beyond these is an error, never overlooked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_ANNOTATIONS = frozenset({"$schema", "$id", "$defs", "title", "description"})
_KNOWN = _ANNOTATIONS | {
    *("$ref", "type", "const", "enum", "pattern", "minimum", "minLength", "required", "properties"),
    *("additionalProperties", "propertyNames", "items"),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A place where the document is not as the schema says."""

    path: str
    """Dotted: `files.rank0\\.engine` is written `files.rank0.engine`; empty for the whole document."""
    found: object
    wanted: str


def violations(schema: Mapping[str, Any], document: object) -> Iterator[Violation]:
    """Name every place, from the top down.

    Raises:
        ValueError: the schema has a keyword that is not known here.

    """
    yield from _check(schema, schema, document, "")


def _check(root: Mapping[str, Any], schema: Mapping[str, Any], value: Any, path: str) -> Iterator[Violation]:
    if not schema.keys() <= _KNOWN:
        raise ValueError(f"unknown keywords in the schema: {sorted(schema.keys() - _KNOWN)}")
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    wanted = _obstacle(schema, value)
    if wanted:
        yield Violation(path, value, wanted)
    elif isinstance(value, dict):
        yield from _check_object(root, schema, value, path)
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _check(root, schema["items"], item, f"{path}[{index}]")


def _obstacle(schema: Mapping[str, Any], value: Any) -> str | None:
    """What is wanted of this very value, where it is something else."""
    if "const" in schema and value != schema["const"]:
        return repr(schema["const"])
    if "enum" in schema and value not in schema["enum"]:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "type" in schema and not _is_of(value, schema["type"]):
        return " or ".join([schema["type"]] if isinstance(schema["type"], str) else schema["type"])
    if isinstance(value, (int, float)) and value < schema.get("minimum", value):
        return f"{schema['minimum']} or more"
    return _text_obstacle(schema, value) if isinstance(value, str) else None


def _text_obstacle(schema: Mapping[str, Any], text: str) -> str | None:
    if not re.search(schema.get("pattern", ""), text):
        return str(schema.get("description", f"a string that matches {schema.get('pattern')}"))
    if len(text) < schema.get("minLength", 0):
        return f"a string of {schema['minLength']} characters or more"
    return None


def _is_of(value: Any, types: str | list[str]) -> bool:
    names = [types] if isinstance(types, str) else types
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, _TYPES[name]) for name in names)


def _check_object(
    root: Mapping[str, Any], schema: Mapping[str, Any], value: Mapping[str, Any], path: str
) -> Iterator[Violation]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield Violation(_below(path, name), None, f"there, as {path or 'the document'} requires")
    for name, item in value.items():
        yield from _check_name(root, schema, name, path)
        rest = schema.get("additionalProperties", {})
        if name in known:
            yield from _check(root, known[name], item, _below(path, name))
        elif rest is False:
            yield Violation(_below(path, name), item, "no such name")
        elif rest is not True:
            yield from _check(root, rest, item, _below(path, name))


def _check_name(
    root: Mapping[str, Any], schema: Mapping[str, Any], name: str, path: str
) -> Iterator[Violation]:
    for violation in _check(root, schema.get("propertyNames", {}), name, path):
        yield Violation(path, name, f"names like: {violation.wanted}")


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
