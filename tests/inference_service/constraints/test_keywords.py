"""Every keyword of the compiler's table is enforced, and the generated page is current."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft4Validator, Draft202012Validator

from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.json_schema.keywords import KEYWORDS, Role
from tests.inference_service.constraints.derivation import matches
from tests.support.structured_output import PAGE, page

OLD = "http://json-schema.org/draft-04/schema#"
POSITIVE = {"type": "integer", "minimum": 1}

EXAMPLES: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "type": ({"type": ["integer", "null"]}, [1, None], ["a", 1.5, True]),
    "enum": ({"enum": ["a", {"b": [1]}, None]}, ["a", {"b": [1]}, None], ["b", {"b": [2]}, 1]),
    "const": ({"const": [1, "a"]}, [[1, "a"]], [[1], "a"]),
    "nullable": ({"type": "string", "nullable": True}, ["a", None], [1]),
    "allOf": ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, [3], [2, "a"]),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, [3, "a"], [None]),
    "oneOf": (
        {"type": "integer", "oneOf": [{"minimum": 5}, {"maximum": 7}]},
        [3, 4, 8, 90],
        [5, 6, 7],
    ),
    "not": ({"type": "string", "not": {"pattern": "^a"}}, ["ba", ""], ["a", "ab"]),
    "if": (
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "if": {"required": ["a"]},
            "then": {"required": ["b"]},
            "additionalProperties": False,
        },
        [{}, {"b": 1}, {"a": 1, "b": 2}],
        [{"a": 1}],
    ),
    "then": ({"if": {"type": "string"}, "then": {"maxLength": 1}}, ["a", 12], ["ab"]),
    "else": ({"if": {"type": "string"}, "else": {"type": "null"}}, ["a", None], [1]),
    "properties": ({"type": "object", "properties": {"a": POSITIVE}}, [{}, {"a": 1}, {"b": 0}], [{"a": 0}]),
    "required": ({"type": "object", "required": ["a"]}, [{"a": 0}, {"a": 0, "b": 1}], [{}, {"b": 0}]),
    "additionalProperties": (
        {"type": "object", "properties": {"a": {}}, "additionalProperties": POSITIVE},
        [{"a": "x", "b": 1}],
        [{"a": "x", "b": "x"}],
    ),
    "patternProperties": (
        {
            "type": "object",
            "properties": {"ab": {"type": "integer"}},
            "patternProperties": {"^a": {"maximum": 5}},
        },
        [{"ab": 1, "ac": 2}, {"b": 9}],
        [{"ab": 6}, {"ac": 6}, {"ab": "x"}],
    ),
    "propertyNames": (
        {"type": "object", "properties": {"a": {}, "bbb": {}}, "propertyNames": {"maxLength": 2}},
        [{"a": 1, "bb": 2}],
        [{"bbb": 1}, {"ccc": 1}],
    ),
    "minProperties": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 2},
        [{"a": 1, "b": 1}, {"b": 1, "c": 1}],
        [{"a": 1}, {}],
    ),
    "maxProperties": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "maxProperties": 1},
        [{}, {"a": 1}, {"c": 1}],
        [{"a": 1, "b": 1}, {"a": 1, "c": 1}],
    ),
    "dependentRequired": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
        [{}, {"b": 1}, {"a": 1, "b": 1}],
        [{"a": 1}],
    ),
    "dependentSchemas": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "dependentSchemas": {"a": {"required": ["b"]}}},
        [{}, {"a": 1, "b": 1}],
        [{"a": 1}],
    ),
    "dependencies": (
        {"$schema": OLD, "type": "object", "properties": {"a": {}, "b": {}}, "dependencies": {"a": ["b"]}},
        [{}, {"a": 1, "b": 1}],
        [{"a": 1}],
    ),
    "prefixItems": (
        {"type": "array", "prefixItems": [POSITIVE, {"type": "null"}]},
        [[], [1, None, 0]],
        [[0], [1, 1]],
    ),
    "items": ({"type": "array", "items": POSITIVE}, [[], [1, 2]], [[0], [1, "a"]]),
    "additionalItems": (
        {
            "$schema": OLD,
            "type": "array",
            "items": [{"type": "null"}],
            "additionalItems": {"type": "integer"},
        },
        [[None, 1], []],
        [[1], [None, None]],
    ),
    "minItems": ({"type": "array", "minItems": 2}, [[1, 2]], [[1]]),
    "maxItems": ({"type": "array", "maxItems": 1}, [[], [1]], [[1, 2]]),
    "uniqueItems": (
        {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
        [["b", "a"]],
        [["a", "a"]],
    ),
    "contains": ({"type": "array", "contains": {"const": 5}}, [[5], [1, 5, 2]], [[], [1, 2]]),
    "minContains": ({"type": "array", "contains": {"const": 5}, "minContains": 2}, [[5, 1, 5]], [[5, 1]]),
    "maxContains": (
        {"type": "array", "items": {"type": "integer"}, "contains": {"const": 5}, "maxContains": 1},
        [[5], [1, 5]],
        [[5, 5], [1]],
    ),
    "minLength": ({"type": "string", "minLength": 2}, ["ab", "éé"], ["a", ""]),
    "maxLength": ({"type": "string", "maxLength": 2, "pattern": "^[a-c]*$"}, ["ab", ""], ["abc", "x"]),
    "pattern": ({"type": "string", "pattern": "b+"}, ["abc"], ["ac"]),
    "format": (
        {"type": "string", "format": "date", "pattern": "^2024"},
        ["2024-02-29"],
        ["2023-01-01", "2024-02-30"],
    ),
    "minimum": ({"type": "number", "minimum": 0.5}, [0.5, 3], [0.4, -1]),
    "maximum": ({"type": "number", "maximum": 0.5}, [0.5, -3], [0.6, 1]),
    "exclusiveMinimum": ({"type": "number", "exclusiveMinimum": 0}, [0.1], [0, -1]),
    "exclusiveMaximum": (
        {"$schema": OLD, "type": "number", "maximum": 1, "exclusiveMaximum": True},
        [0.5],
        [1, 2],
    ),
    "multipleOf": ({"type": "number", "multipleOf": 0.25}, [0.5, 1, 7.25, -2.75], [0.3, 0.26, 1.1]),
}


def test_there_is_an_example_of_every_keyword() -> None:
    enforced = {name for name, keyword in KEYWORDS.items() if keyword.role is Role.ENFORCED}
    assert EXAMPLES.keys() == enforced


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_keyword_is_enforced(name: str) -> None:
    schema, valid, invalid = EXAMPLES[name]
    oracle: Any = Draft4Validator if schema.get("$schema") == OLD else Draft202012Validator
    checks = oracle(schema, format_checker=oracle.FORMAT_CHECKER)
    grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))
    assert grammar.ignored == ()
    for value in (*valid, *invalid):
        is_valid = value in valid and not any(value is other for other in invalid)
        if name != "nullable":
            assert checks.is_valid(value) == is_valid, value
        assert matches(grammar, json.dumps(value, ensure_ascii=False)) == is_valid, value


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make parameters`"
