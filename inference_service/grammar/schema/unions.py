"""anyOf and oneOf."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.schema.document import Document
from inference_service.grammar.schema.merge import merge
from inference_service.grammar.schema.source import Schema, inside
from inference_service.grammar.schema.values import same_value, type_of, types_in

_MOST_EXCLUSIVE = 64
_DISJOINT_DEPTH = 4

Option = tuple[Schema, str]
"""A branch, with what stands beside the union put into it, and its path."""


def branches(document: Document, schema: Mapping[str, Any], path: str) -> list[Option]:
    """List the alternatives of a union; a value of one that `oneOf` offers is never one of another.

    Args:
        document: what references lead into.
        schema: flat, with `anyOf` or `oneOf`.
        path: where it stands.

    Raises:
        ConstraintError: it has both, no branch can be satisfied, or two branches of `oneOf` could be at once.

    """
    keyword = "oneOf" if "oneOf" in schema else "anyOf"
    if keyword == "oneOf" and "anyOf" in schema:
        raise ConstraintError("anyOf and oneOf together are not supported", path)
    base = {key: value for key, value in schema.items() if key != keyword}
    place = inside(path, keyword)
    options = [(option, f"{place}[{index}]") for index, option in enumerate(schema[keyword])]
    if keyword == "oneOf":
        options = _exclusive(document, options, base, place)
    elif base:
        options = [(_merged(document, option, base), option[1]) for option in options]
    found = [(option, where) for option, where in options if option is not False]
    if not found:
        raise ConstraintError("no branch can be satisfied", place)
    return found


def _merged(document: Document, option: Option, base: Mapping[str, Any]) -> Schema:
    return merge(document.flat(*option), dict(base), option[1])


def _exclusive(document: Document, options: list[Option], base: Mapping[str, Any], path: str) -> list[Option]:
    if len(options) > _MOST_EXCLUSIVE:
        raise ConstraintError(f"oneOf has more than {_MOST_EXCLUSIVE} branches", path)
    flat = [(_merged(document, option, base), option[1]) for option in options]
    flat = [(option, where) for option, where in flat if option is not False]
    for (one, where), (other, _) in combinations(flat, 2):
        if not _are_disjoint(document, one, other, _DISJOINT_DEPTH):
            raise ConstraintError(
                "branches of oneOf must exclude each other: by type, by enum or const, or by a property "
                "that has them in both; else use anyOf",
                where,
            )
    return [(_with_tags(document, option, flat), where) for option, where in flat]


def _are_disjoint(document: Document, one: Schema, other: Schema, depth: int) -> bool:
    """Whether no value that is generated for one is valid under the other, either way."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is False or other is False
    if "enum" in one and "enum" in other:
        return not any(same_value(value, another) for value in one["enum"] for another in other["enum"])
    if not _types(one) & _types(other):
        return True
    if _types(one) == _types(other) == {"object"} and depth:
        return any(_tags(document, one, other, depth))
    return False


def _types(schema: Mapping[str, Any]) -> set[str]:
    # Nested unions could be of any type; nothing is known of them here.
    if "enum" in schema:
        return {type_of(value) for value in schema["enum"]} & types_in({**schema})
    return types_in(schema) if "type" in schema else types_in({})


def _tags(document: Document, one: Mapping[str, Any], other: Mapping[str, Any], depth: int) -> list[str]:
    """Names of the properties that no value has alike in both."""
    mine, others = one.get("properties", {}), other.get("properties", {})
    return [
        name
        for name in mine
        if name in others
        and _are_disjoint(
            document, document.flat(mine[name], name), document.flat(others[name], name), depth - 1
        )
    ]


def _with_tags(document: Document, option: Schema, all_options: list[Option]) -> Schema:
    """Have a branch always write what tells it from the others, even if it need not."""
    if isinstance(option, bool):
        return option
    rest = [other for other, _ in all_options if isinstance(other, dict) and other is not option]
    rest = [other for other in rest if _types(other) & _types(option) == {"object"}]
    tags = [_tags(document, option, other, _DISJOINT_DEPTH)[:1] for other in rest]
    names = dict.fromkeys([*option.get("required", ()), *(name for tag in tags for name in tag)])
    return {**option, "required": list(names)} if names else option
