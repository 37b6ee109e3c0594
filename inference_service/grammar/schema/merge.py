"""Two demands on the same value, made one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.schema.source import Schema
from inference_service.grammar.schema.values import same_value, types_of


def merge(one: Schema, other: Schema, path: str) -> Schema:
    """Make the schema of the values that satisfy both; False if there are none.

    Args:
        one: without references, `allOf` and annotations.
        other: the same.
        path: where they come from.

    Raises:
        ConstraintError: they cannot be put together exactly.

    """
    if isinstance(one, bool) or isinstance(other, bool):
        return other if one is True else one if other is True or one is False else False
    _refuse_closed(one, other, path)
    _refuse_closed(other, one, path)
    merged = {**one, **other}
    for keyword in one.keys() & other.keys():
        if same_value(one[keyword], other[keyword]):
            continue
        if keyword not in _MERGES:
            raise ConstraintError(f"{keyword} is demanded twice, which cannot be put together", path)
        merged[keyword] = _MERGES[keyword](one[keyword], other[keyword])
    return merged if merged.get("type") != [] and merged.get("enum") != [] else False


def _refuse_closed(one: Mapping[str, Any], other: Mapping[str, Any], path: str) -> None:
    """Refuse to merge what speaks of all other members or elements with what names more of them."""
    closed = one.get("additionalProperties", True) is not True or "patternProperties" in one
    if closed and not other.get("properties", {}).keys() <= one.get("properties", {}).keys():
        raise ConstraintError("additionalProperties cannot be put together with further properties", path)
    if "items" in one and "prefixItems" in other and "prefixItems" not in one:
        raise ConstraintError("items cannot be put together with prefixItems of another schema", path)


def _both(one: object, other: object) -> dict[str, Any]:
    return {"allOf": [one, other]}


def _common_types(one: str | list[str], other: str | list[str]) -> list[str]:
    return sorted(types_of(one) & types_of(other))


def _common_values(one: list[Any], other: list[Any]) -> list[Any]:
    return [value for value in one if any(same_value(value, candidate) for candidate in other)]


def _all_members(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    twice = {name: _both(one[name], other[name]) for name in one.keys() & other.keys()}
    return {**one, **other, **twice}


def _all_names(one: list[str], other: list[str]) -> list[str]:
    return list(dict.fromkeys([*one, *other]))


_MERGES: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {
        "additionalProperties": _both,
        "enum": _common_values,
        "exclusiveMaximum": min,
        "exclusiveMinimum": max,
        "items": _both,
        "maxItems": min,
        "maxLength": min,
        "maxProperties": min,
        "maximum": min,
        "minItems": max,
        "minLength": max,
        "minProperties": max,
        "minimum": max,
        "properties": _all_members,
        "required": _all_names,
        "type": _common_types,
        "uniqueItems": max,
    }
)
