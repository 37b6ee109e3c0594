"""Reads the schemas of request bodies from the API's own description, as a caller would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, TypeChecker, validators

from rest_bridge.app import create_app
from rest_bridge.config import BridgeConfig

Schema = Mapping[str, Any]

CHAT, COMPLETION = "ChatCompletionRequest", "CompletionRequest"
_PREFIX = "#/components/schemas/"
_RANGES = frozenset(
    {
        "exclusiveMinimum",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "pattern",
    }
)


def name_of(body: Mapping[str, Any]) -> str:
    """The name of the schema for a body."""
    return CHAT if "messages" in body else COMPLETION


@cache
def components() -> dict[str, Any]:
    """Every schema of the description, by name."""
    found: dict[str, Any] = create_app(BridgeConfig(grpc_address="127.0.0.1:1")).openapi()["components"]
    return dict(found["schemas"])


def resolved(schema: Schema) -> Schema:
    """A schema with the reference at its top resolved."""
    reference = schema.get("$ref")
    return schema if reference is None else resolved(components()[reference.removeprefix(_PREFIX)])


def is_valid(body: Any, name: str) -> bool:
    """Whether a body is as described. An integer must have no decimal point, as strict parsers demand."""
    return bool(_validator(name, with_ranges=True).is_valid(body))


def has_right_types(body: Any, name: str) -> bool:
    """Whether a body has the right types, regardless of ranges, lengths and counts."""
    return bool(_validator(name, with_ranges=False).is_valid(body))


@cache
def _validator(name: str, *, with_ranges: bool) -> Any:
    schemas = components() if with_ranges else _without_ranges(components())
    checker = (
        TypeChecker()
        .redefine_many({name: Draft202012Validator.TYPE_CHECKER._type_checkers[name] for name in _TYPES})
        .redefine("integer", lambda _, value: type(value) is int)
        .redefine("number", lambda _, value: type(value) in (int, float))
    )
    extend: Any = validators.extend
    strict = extend(Draft202012Validator, type_checker=checker)
    return strict({"$ref": _PREFIX + name, "components": {"schemas": schemas}})


_TYPES = ("string", "boolean", "null", "array", "object")


def _without_ranges(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_ranges(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if name not in _RANGES}
    return {n: value if n == "propertyNames" else _without_ranges(value) for n, value in kept.items()}


def undeclared(value: Any, schema: Schema, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """The members that no schema declares: path of the object, name, value."""
    schema = _branch(value, resolved(schema))
    if isinstance(value, dict) and "properties" in schema:
        for name, member in value.items():
            declared = schema["properties"].get(name)
            if declared is None:
                yield path, name, member
            else:
                yield from undeclared(member, declared, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and "items" in schema:
        for number, element in enumerate(value):
            yield from undeclared(element, schema["items"], f"{path}[{number}]")


def plain(value: Any, schema: Schema) -> Any:
    """A value without undeclared members and without nulls, which have no effect."""
    schema = _branch(value, resolved(schema))
    if isinstance(value, list) and "items" in schema:
        return [plain(element, schema["items"]) for element in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    declared = schema["properties"]
    members = {name: member for name, member in value.items() if name in declared and member is not None}
    return {name: plain(member, declared[name]) for name, member in members.items()}


def _branch(value: Any, schema: Schema) -> Schema:
    """The branch of a union for values of this kind."""
    kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else None
    branches = [resolved(branch) for branch in schema.get("anyOf", ())]
    fitting = [branch for branch in branches if branch.get("type") == kind]
    named = [branch for branch in fitting if kind == "object" and value.get("type") in _types(branch)]
    return next(iter([*named, *fitting]), schema)


def _types(schema: Schema) -> list[Any]:
    """The values of `type` by which the objects of a union differ."""
    return list(schema.get("properties", {}).get("type", {}).get("enum", ()))
