from __future__ import annotations

import json
from typing import Any

import pytest

from inference_service.grammar import ConstraintError, ConstraintKind, compile_constraint


def _named(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"name": keywords}, "required": ["name"]}


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED: list[tuple[Any, str, str]] = [
    (_named(type="string", pattern="a(?=b)"), "$.properties.name.pattern", "lookahead"),
    (_named(type="string", pattern="a^b"), "$.properties.name.pattern", "position 1"),
    (_named(type="string", pattern="^a*b*$", maxLength=3), "$.properties.name.pattern", "maxLength"),
    (_named(type="string", format="iri"), "$.properties.name.format", "format"),
    (_named(type="string", format="date", pattern="^2"), "$.properties.name", "together"),
    (_named(type="string", minLength=3, maxLength=2), "$.properties.name", "below"),
    (_named(type="string", maxLength=-1), "$.properties.name.maxLength", "integer from 0"),
    (_named(type="string", maxLength=True), "$.properties.name.maxLength", "integer from 0"),
    (_named(type="string", maxLength=10**9), "$.properties.name.maxLength", "65536"),
    (_named(type="text"), "$.properties.name.type", "one or several of"),
    (_named(type=[]), "$.properties.name.type", "one or several of"),
    (_named(enum=[]), "$.properties.name.enum", "1 to 1000"),
    (_named(type="integer", enum=["a"]), "$.properties.name", "no value of enum"),
    (_named(enum=["a"], maxLength=3), "$.properties.name", "maxLength beside enum"),
    (_named(type="integer", minimum=5, maximum=4), "$.properties.name", "no integer"),
    (_named(type="integer", exclusiveMinimum=4, exclusiveMaximum=5), "$.properties.name", "no integer"),
    (_named(type="integer", multipleOf=7), "$.properties.name", "multipleOf"),
    (_named(type="number", multipleOf=0.01), "$.properties.name", "multipleOf"),
    (_named(type="number", minimum=1, maximum=0), "$.properties.name", "no number"),
    (_named(type="number", minimum=1e-12, maximum=1e6), "$.properties.name", "digits"),
    (_named(type="integer", format="int32"), "$.properties.name.format", "format"),
    (_named(type="array", uniqueItems=True), "$.properties.name.uniqueItems", "uniqueItems"),
    (_named(type="array", minItems=3, maxItems=2), "$.properties.name", "no array"),
    (_named(type="array", items=[{}]), "$.properties.name.items", "must be a schema"),
    (_named(type="object", minProperties=2), "$.properties.name", "minProperties"),
    (_named(**{"not": {}}), "$.properties.name", '"not" is not supported'),
    (_named(**{"if": {}, "then": {}}), "$.properties.name", '"if" is not supported'),
    (_named(nullable=True), "$.properties.name", '"nullable" is not supported'),
    (_named(**{"$ref": "https://example.com/x"}), "$.properties.name.$ref", "into the schema itself"),
    (_named(**{"$ref": "#/$defs/none"}), "$.properties.name.$ref", "leads nowhere"),
    (
        _named(oneOf=[{"type": "integer"}, {"type": "number"}]),
        "$.properties.name.oneOf[0]",
        "exclude each other",
    ),
    (_named(oneOf=[{"const": 1}, {"enum": [2, 1.0]}]), "$.properties.name.oneOf[0]", "exclude each other"),
    (_named(oneOf=[{}, {"type": "null"}]), "$.properties.name.oneOf[0]", "exclude each other"),
    (_named(anyOf=[{"type": "null"}], oneOf=[{"type": "null"}]), "$.properties.name", "together"),
    (_named(allOf=[{"pattern": "^a"}, {"pattern": "b$"}]), "$.properties.name", "demanded twice"),
    (_named(allOf=[{"type": "null"}, {"type": "string"}]), "$.properties.name", "nothing is valid"),
    (
        {
            "allOf": [
                {"properties": {"a": {}}, "additionalProperties": False},
                {"properties": {"b": {}}, "required": ["b"]},
            ]
        },
        "$",
        "further properties",
    ),
    (
        {"type": "object", "properties": {"a b": {"minimum": "1"}}},
        '$.properties["a b"].minimum',
        "must be a finite number",
    ),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, "$.properties.a", "required"),
    ({"type": "object", "properties": {"a": {"$id": "x"}}}, "$.properties.a", '"$id"'),
    ({"$ref": "#"}, "$", "can never end"),
    (
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        "$",
        "can never end",
    ),
    (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        "$",
        "can never end",
    ),
    ({"allOf": [{"$ref": "#"}], "type": "object"}, "$", "nested"),
    ({"allOf": [{"type": "object"}, []]}, "$.allOf[1]", "an object or a boolean"),
    ({"allOf": [None]}, "$.allOf[0]", "an object or a boolean"),
    ({"anyOf": [{"type": "null"}, "x"]}, "$.anyOf[1]", "an object or a boolean"),
    ({"oneOf": [{"type": "null"}, 1]}, "$.oneOf[1]", "an object or a boolean"),
    ({"type": "object", "properties": {"a": "b"}}, "$.properties.a", "an object or a boolean"),
    ({"type": "array", "prefixItems": [[]]}, "$.prefixItems[0]", "an object or a boolean"),
    ({"type": "object", "patternProperties": {"^a$": 1}}, "$.patternProperties", "an object or a boolean"),
    (_named(type="integer", minimum=10**400), "$.properties.name.minimum", "finite number"),
    (_named(type="number", multipleOf=10**400), "$.properties.name.multipleOf", "greater than 0"),
    (_named(type="string", maxLength=10**400), "$.properties.name.maxLength", "65536"),
    (False, "$", "nothing is valid"),
    (_deep(70), "$.items", "nested more than"),
]


@pytest.mark.parametrize(("schema", "path", "message"), REFUSED)
def test_what_cannot_be_honoured_is_refused_where_it_stands(schema: Any, path: str, message: str) -> None:
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
        ("[" * 100_000, "bytes"),
        ("[" * 60_000, "nested too deep"),
        ('{"const": ' + "9" * 5_000 + "}", "too long"),
        ('{"type": "string", "description": "' + "x" * 70_000 + '"}', "bytes"),
    ],
)
def test_what_is_no_schema_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        compile_constraint(ConstraintKind.JSON_SCHEMA, text)


@pytest.mark.parametrize(
    "keyword",
    [
        "$anchor",
        "$dynamicRef",
        "contains",
        "contentEncoding",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "minContains",
        "not",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "nobody knows this",
    ],
)
def test_every_other_keyword_is_refused_by_name(keyword: str) -> None:
    with pytest.raises(ConstraintError, match="is not supported") as caught:
        compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps({"type": "object", keyword: {}}))
    assert keyword in caught.value.message
