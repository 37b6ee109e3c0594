"""The demands of single keywords on the facts of an alternative, and the ways to disagree with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import TypeAlias

from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.json_schema.document import Schema, distinct, value_key
from inference_service.constraints.json_schema.facts import (
    Atom,
    Contained,
    Counts,
    Elements,
    Facts,
    Members,
    exact,
)
from inference_service.constraints.json_schema.keywords import JSON_TYPES
from inference_service.constraints.json_schema.strings import NUMBER_FORMATS
from inference_service.constraints.nodes import Node
from inference_service.constraints.regex import found_text

Demand: TypeAlias = Callable[[Facts], None]
Item: TypeAlias = "Atom | Demand"
Option: TypeAlias = "list[Item]"
"""Demands that hold together."""
Disjunction: TypeAlias = "list[Option]"


def type_names(keywords: dict[str, object]) -> frozenset[str]:
    stated = keywords["type"]
    names = {stated} if isinstance(stated, str) else set(stated)  # type: ignore[call-overload]
    return frozenset(names | {"null"} if keywords.get("nullable") is True else names)


def only_types(facts: Facts, types: frozenset[str] | set[str]) -> None:
    facts.types &= types


def be_typed(facts: Facts, names: frozenset[str]) -> None:
    types = set(names)
    if "integer" in types:
        types.discard("integer")
        if "number" not in types:
            types.add("number")
            _set_integer(facts, is_integer=True)
    only_types(facts, types)


def _set_integer(facts: Facts, *, is_integer: bool) -> None:
    if facts.number.is_integer is (not is_integer):
        facts.types -= {"number"}
    facts.number.is_integer = is_integer


def other_types(names: frozenset[str]) -> Iterator[Option]:
    others = JSON_TYPES - names - ({"number"} if "integer" in names else set())
    yield [partial(only_types, types=others)]
    if "integer" in names and "number" not in names:
        yield [partial(only_types, types={"number"}), partial(_set_integer, is_integer=False)]


def be_one_of(facts: Facts, values: list[object]) -> None:
    if facts.values is None:
        facts.values = distinct(values)
    else:
        allowed = set(map(value_key, values))
        facts.values = [value for value in facts.values if value_key(value) in allowed]


def raise_to(counts: Counts, least: int) -> None:
    counts.least = max(counts.least, least)


def number_demands(schema: Schema) -> Iterator[Demand]:
    keywords = schema.keywords
    for keyword, is_exclusive in (("minimum", False), ("exclusiveMinimum", True)):
        if keyword in keywords:
            low = exact(keywords[keyword])
            yield partial(_at_least, value=low, is_exclusive=is_exclusive)
    for keyword, is_exclusive in (("maximum", False), ("exclusiveMaximum", True)):
        if keyword in keywords:
            high = exact(keywords[keyword])
            yield partial(_at_most, value=high, is_exclusive=is_exclusive)
    if "multipleOf" in keywords:
        step = exact(keywords["multipleOf"])
        yield lambda facts: _multiple(facts, step)
    limits = NUMBER_FORMATS.get(keywords.get("format", ""))
    if limits is not None:
        yield partial(_at_least, value=exact(limits[0]), is_exclusive=False)
        yield partial(_at_most, value=exact(limits[1]), is_exclusive=False)


def _at_least(facts: Facts, value: Fraction, *, is_exclusive: bool) -> None:
    facts.number.at_least(value, is_exclusive=is_exclusive)


def _at_most(facts: Facts, value: Fraction, *, is_exclusive: bool) -> None:
    facts.number.at_most(value, is_exclusive=is_exclusive)


def _multiple(facts: Facts, step: Fraction) -> None:
    facts.number.multiples = (*facts.number.multiples, step)


def denied_number(schema: Schema) -> Iterator[Option]:
    keywords = schema.keywords
    is_number = partial(only_types, types={"number"})
    for keyword, is_exclusive in (("minimum", True), ("exclusiveMinimum", False)):
        if keyword in keywords:
            yield [is_number, partial(_at_most, value=exact(keywords[keyword]), is_exclusive=is_exclusive)]
    for keyword, is_exclusive in (("maximum", True), ("exclusiveMaximum", False)):
        if keyword in keywords:
            yield [is_number, partial(_at_least, value=exact(keywords[keyword]), is_exclusive=is_exclusive)]
    if "multipleOf" in keywords:
        yield [is_number, lambda facts: facts.unsupported.append(("number", _no_multiple(schema)))]


def _no_multiple(schema: Schema) -> ConstraintError:
    return schema.unsupported("multipleOf", "what is no multiple cannot be described exactly")


def language_of_pattern(schema: Schema, keyword: str, pattern: str, *, widest: bool = False) -> Node:
    try:
        return found_text(pattern, widest=widest)
    except ConstraintError as error:
        raise schema.unsupported(keyword, str(error)) from None


def array_demands(schema: Schema) -> Iterator[Demand]:
    keywords = schema.keywords
    prefix = tuple(
        (schema.child(_prefix_keyword(schema), i), True) for i in range(len(keywords.get("prefixItems", ())))
    )
    rest: Atom | None = None
    if "items" in keywords:
        rest = (schema.child("items"), True)
    elif "additionalItems" in keywords and _prefix_keyword(schema) == "items" and prefix:
        rest = (schema.child("additionalItems"), True)
    if prefix or rest:
        yield lambda facts: facts.elements.append(Elements(prefix, rest))
    if "minItems" in keywords:
        yield lambda facts: raise_to(facts.element_count, keywords["minItems"])
    if "maxItems" in keywords:
        yield lambda facts: facts.element_count.at_most(keywords["maxItems"])
    if keywords.get("uniqueItems"):
        yield partial(_be_unique, schema=schema)
    if "contains" in keywords:
        contained = Contained(
            (schema.child("contains"), True), keywords.get("minContains", 1), keywords.get("maxContains")
        )
        yield lambda facts: facts.contained.append(contained)


def _prefix_keyword(schema: Schema) -> str:
    is_old = isinstance(schema.value, dict) and isinstance(schema.value.get("items"), list)
    return "items" if is_old else "prefixItems"


def _be_unique(facts: Facts, schema: Schema) -> None:
    facts.unique = schema


def object_demands(schema: Schema) -> Iterator[Demand]:
    keywords = schema.keywords
    if keywords.keys() & {"properties", "patternProperties", "additionalProperties"}:
        members = Members(
            {name: (schema.child("properties", name), True) for name in keywords.get("properties", {})},
            tuple(
                (pattern, (schema.child("patternProperties", pattern), True))
                for pattern in keywords.get("patternProperties", {})
            ),
            (schema.child("additionalProperties"), True) if "additionalProperties" in keywords else None,
        )
        yield partial(append_members, members=members)
    if "required" in keywords:
        yield lambda facts: facts.required.update(dict.fromkeys(keywords["required"]))
    if "minProperties" in keywords:
        yield lambda facts: raise_to(facts.member_count, keywords["minProperties"])
    if "maxProperties" in keywords:
        yield lambda facts: facts.member_count.at_most(keywords["maxProperties"])
    if "propertyNames" in keywords:
        names = (schema.child("propertyNames"), True)
        yield lambda facts: facts.names.append(names)


def append_members(facts: Facts, members: Members) -> None:
    facts.members.append(members)
