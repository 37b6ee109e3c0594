from __future__ import annotations

import json
from typing import Any

import pytest

from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.errors import ConstraintError


def _named(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"name": keywords}, "required": ["name"]}


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED: list[tuple[Any, str, str]] = [
    (_named(type="string", pattern="(a(?=b))c"), "$.properties.name.pattern", "lookahead"),
    (_named(type="string", pattern="a^b"), "$.properties.name.pattern", "position 1"),
    (_named(type="string", pattern="(?<=a)b", maxLength=3), "$.properties.name.pattern", "lookbehind"),
    (_named(type="string", minLength=3, maxLength=2), "$.properties.name", "nothing satisfies"),
    (_named(type="string", format="date", pattern="^x"), "$.properties.name", "nothing satisfies"),
    (_named(type="string", maxLength=-1), "$.properties.name.maxLength", "integer of 0"),
    (_named(type="string", maxLength=True), "$.properties.name.maxLength", "integer of 0"),
    (_named(type="text"), "$.properties.name.type", "one or several of"),
    (_named(type=[]), "$.properties.name.type", "one or several of"),
    (_named(enum=[]), "$.properties.name.enum", "at least one"),
    (_named(type="integer", enum=["a"]), "$.properties.name", "nothing satisfies"),
    (_named(enum=["abcd"], maxLength=3), "$.properties.name", "nothing satisfies"),
    (_named(type="integer", minimum=5, maximum=4), "$.properties.name", "nothing satisfies"),
    (
        _named(type="integer", exclusiveMinimum=4, exclusiveMaximum=5),
        "$.properties.name",
        "nothing satisfies",
    ),
    (_named(type="integer", multipleOf=7, minimum=3), "$.properties.name", "multipleOf"),
    (_named(type="integer", multipleOf=7001), "$.properties.name.multipleOf", "remainders"),
    (_named(type="number", minimum=1, maximum=0), "$.properties.name", "nothing satisfies"),
    (_named(type="number", **{"not": {"multipleOf": 3}}), "$.properties.name.not", "no multiple"),
    (_named(type="array", uniqueItems=True), "$.properties.name.uniqueItems", "few values"),
    (_named(type="array", minItems=3, maxItems=2), "$.properties.name", "nothing satisfies"),
    (_named(**{"not": {}}), "$.properties.name", "nothing satisfies"),
    (
        _named(type="object", **{"not": {"propertyNames": {"maxLength": 3}}}),
        "$.properties.name.not",
        "exactly",
    ),
    (_named(**{"not": {"format": "date"}}), "$.properties.name.not", "exactly"),
    (_named(**{"$ref": "https://example.com/x"}), "$.properties.name.$ref", "into the schema itself"),
    (_named(**{"$ref": "#/$defs/none"}), "$.properties.name.$ref", "leads nowhere"),
    (
        _named(oneOf=[{"format": "date"}, {"type": "string", "maxLength": 10}]),
        "$.properties.name.oneOf",
        "exactly",
    ),
    (_named(allOf=[{"type": "null"}, {"type": "string"}]), "$.properties.name", "nothing satisfies"),
    (
        {"type": "object", "properties": {"a b": {"minimum": "1"}}},
        '$.properties["a b"].minimum',
        "must be a finite number",
    ),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, "$", "nothing satisfies"),
    ({"$ref": "#"}, "$", "back to itself"),
    (
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        "$",
        "nothing satisfies",
    ),
    (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        "$",
        "back to itself",
    ),
    ({"allOf": [{"type": "object"}, []]}, "$.allOf[1]", "an object or a boolean"),
    ({"allOf": [None]}, "$.allOf[0]", "an object or a boolean"),
    ({"anyOf": [{"type": "null"}, "x"]}, "$.anyOf[1]", "an object or a boolean"),
    ({"oneOf": [{"type": "null"}, 1]}, "$.oneOf[1]", "an object or a boolean"),
    ({"type": "object", "properties": {"a": "b"}}, "$.properties.a", "an object or a boolean"),
    ({"type": "array", "prefixItems": [[]]}, "$.prefixItems[0]", "an object or a boolean"),
    ({"type": "object", "patternProperties": {"^a$": 1}}, "$.patternProperties", "an object or a boolean"),
    (_named(type="integer", minimum=10**400), "$.properties.name.minimum", "finite number"),
    (_named(type="number", multipleOf=10**400), "$.properties.name.multipleOf", "greater than 0"),
    (
        {"type": "object", "patternProperties": {f"^{c}": {"type": "null"} for c in "abcdefg"}},
        "$.patternProperties",
        "more than 6 patterns",
    ),
    (False, "$", "nothing satisfies"),
]


@pytest.mark.parametrize(("schema", "path", "message"), REFUSED)
def test_unsupported_keywords_are_refused_with_their_place(schema: Any, path: str, message: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))
    assert caught.value.path.startswith(path)
    assert message in caught.value.message
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "an object or a boolean"),
        ('"string"', "an object or a boolean"),
        ('{"const": NaN}', "NaN"),
        ('{"minimum": Infinity}', "Infinity"),
        ('{"type": "null", "type": "string"}', "twice"),
        ('{"const": "\\ud800"}', "surrogate"),
        ('{"properties": {"\\ud800": {}}}', "surrogate"),
        ('{"const": 1e999}', "no JSON text"),
        ("[" * 600_000, "bytes"),
        ("[" * 60_000, "nested too deep"),
        ('{"const": ' + "9" * 5_000 + "}", "too long"),
        ('{"type": "string", "description": "' + "x" * 530_000 + '"}', "bytes"),
    ],
)
def test_invalid_schemas_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        compile_constraint(ConstraintKind.JSON_SCHEMA, text)


@pytest.mark.parametrize("keyword", ["contentEncoding", "unknown", "x-order", "nobody knows this", "id_"])
def test_every_other_keyword_is_an_annotation_and_is_named(keyword: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null", keyword: {}}}, "required": ["a"]}
    grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))
    [named] = grammar.ignored
    assert named.startswith("$.properties.a")
    assert keyword in named
    assert not grammar.matches("{}")


@pytest.mark.parametrize("keyword", ["unevaluatedProperties", "unevaluatedItems", "$dynamicRef"])
def test_unknown_assertions_are_refused(keyword: str) -> None:
    """They are no annotations: without them the grammar would accept invalid texts."""
    value: Any = "#a" if keyword == "$dynamicRef" else False
    with pytest.raises(ConstraintError, match="not supported") as caught:
        compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps({keyword: value}))
    assert caught.value.path == f"$.{keyword}"
