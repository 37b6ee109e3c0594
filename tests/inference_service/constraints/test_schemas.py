from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.grammar import Grammar
from tests.inference_service.constraints.derivation import Sampler, matches, text_of_llguidance
from tests.inference_service.constraints.schemas import SCHEMAS

pytestmark = pytest.mark.slow

SENTENCES = 60


def compiled(schema: Any) -> Grammar:
    return compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))


def test_the_schemas_cover_all_kinds() -> None:
    assert len(SCHEMAS) >= 50


@pytest.mark.parametrize("name", SCHEMAS)
def test_all_generated_texts_are_valid(name: str) -> None:
    schema = SCHEMAS[name]
    grammar = compiled(schema)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for seed in range(SENTENCES):
        text = Sampler(grammar, seed).sentence()
        text.encode()
        validator.validate(json.loads(text))


_NARROWER = re.compile(r"[0-9]{10}|\.[0-9]{5}|-0\b|[0-9][eE]|\\u")
"""Spellings that our grammars leave out: long numbers, exponents with bounds, escapes."""


@pytest.mark.parametrize("name", SCHEMAS)
def test_texts_generated_by_llguidance_are_judged_as_by_jsonschema(name: str) -> None:
    schema = SCHEMAS[name]
    grammar = compiled(schema)
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for seed in range(10):
        text = text_of_llguidance(schema, seed)
        if text is None:
            continue
        is_valid = validator.is_valid(json.loads(text))
        is_taken = grammar.matches(text)
        assert is_valid or not is_taken, text
        assert is_taken or not is_valid or _NARROWER.search(text), text


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_shortest_sentence_is_valid_and_generated(name: str) -> None:
    grammar = compiled(SCHEMAS[name])
    text = grammar.shortest_text()
    assert matches(grammar, text)
    Draft202012Validator(SCHEMAS[name]).validate(json.loads(text))


ACCEPTED: list[tuple[str, list[str]]] = [
    ("flat object", ['{"name":"","age":150}', '{"name": "a\\n\\u00e9", "age": 7}']),
    ("optional properties", ["{}", '{"b":true}', '{"a":1,"d":{"x":1,"y":2}}', '{"a":1,"b":false,"c":"x"}']),
    ("optional around required", ['{"c":true}', '{"a":true,"c":true,"d":null}', '{"b":true,"c":true}']),
    ("any object", ['{"a":[1,{"b":[]}],"c":-0.5e-7}']),
    ("named and others", ['{"id":1,"idb":"x","i":"y"}', '{"id":1,"if":true,"":""}']),
    (
        "oneOf with a defaulted tag",
        ['{"lives":9,"kind":"cat"}', '{"kind":"dog","tricks":1}', '{"kind":"dog","lives":1}'],
    ),
    ("linked list", ['{"value":1,"next":{"value":2,"next":null}}']),
    ("tuple", ["[1]", "[1,true]", "[1, true, null]"]),
    ("array with bounds", ["[true,false]", "[true,false,true,true]"]),
    ("pattern with a length", ['{"value":"a_9"}', '{"value":"abcdefgh"}']),
    ("pattern with quotes", ['{"value":"\\"a\\"\\\\\\n"}']),
    ("pattern found anywhere", ['{"value":"xxabyy"}', '{"value":"ab"}']),
    ("date", ['{"value":"2024-02-29"}', '{"value":"1999-12-31"}']),
    ("email", ['{"value":"first.last+tag@mail.example.org"}']),
    ("uri", ['{"value":"https://example.com:8080/a/b?c=d#e"}']),
    ("integer range", ['{"value":-12}', '{"value":0}', '{"value":345}', '{"value":99}']),
    ("probability", ['{"value":0}', '{"value":1}', '{"value":0.25}', '{"value":0.0}']),
    ("positive number", ['{"value":0.05}', '{"value":19.99}', '{"value":1200}']),
    ("latitude", ['{"value":-90}', '{"value":89.999}', '{"value":-0.5}', '{"value":52.52}']),
    ("narrow decimals", ['{"value":0.26}', '{"value":0.2500001}', '{"value":0.29999}']),
    ("enum of all kinds", ["1", "2.5", "true", "null", '[1,"b"]', '{"k":"v"}']),
]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in ACCEPTED for text in texts])
def test_texts_that_a_schema_allows_can_be_generated(name: str, text: str) -> None:
    Draft202012Validator(SCHEMAS[name]).validate(json.loads(text))
    assert matches(compiled(SCHEMAS[name]), text)


REJECTED: list[tuple[str, list[str]]] = [
    ("flat object", ['{"name":""}', '{"age":1,"name":""}', '{"name":"","age":151}', '{"name":"","age":01}']),
    (
        "flat object",
        ['{"name":"",  "age":1}', ' {"name":"","age":1}', '{"name":"","age":1} ', '{"name":"\n"}'],
    ),
    ("flat object", ['{"name":"\\ud800","age":1}', '{"name":"\\u0000","age":1}', '{"name":"a","age":1,}']),
    ("named and others", ['{"id":1,"id":"x"}', '{"id":1,"\\u0069f":"x"}', '{"id":1,"ida":"x"}']),
    ("oneOf with a defaulted tag", ["{}", '{"lives":9}', '{"lives":"x","kind":"cat"}']),
    ("array with bounds", ["[true]", "[true,true,true,true,true]", "[true,true,]"]),
    ("tuple", ["[]", "[1,true,null,1]"]),
    ("pattern with a length", ['{"value":"ab"}', '{"value":"abcdefghi"}', '{"value":"9ab"}']),
    ("date", ['{"value":"2023-02-29"}', '{"value":"1900-02-29"}', '{"value":"2023-04-31"}']),
    ("integer range", ['{"value":-13}', '{"value":346}', '{"value":-0}', '{"value":1.0}']),
    ("probability", ['{"value":1.5}', '{"value":-0.1}', '{"value":01}', '{"value":1e-5}']),
    ("positive number", ['{"value":0}', '{"value":0.0}', '{"value":-1}']),
    ("narrow decimals", ['{"value":0.25}', '{"value":0.250}', '{"value":0.3}']),
    ("any number", ["1e999", "01", "+1", ".5", "NaN"]),
]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in REJECTED for text in texts])
def test_texts_that_a_schema_forbids_cannot_be_generated(name: str, text: str) -> None:
    assert not matches(compiled(SCHEMAS[name]), text)


def test_the_reference_can_fail() -> None:
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMAS["flat object"]).validate({"name": "", "age": 151})


def test_the_number_of_rules_grows_with_the_properties_and_not_with_their_subsets() -> None:
    properties = {f"p{index}": {"type": "integer"} for index in range(200)}
    grammar = compiled({"type": "object", "properties": properties})
    assert len(grammar.rules) < 600
    assert matches(grammar, '{"p0":1,"p77":2,"p199":3}')
    assert not matches(grammar, '{"p77":1,"p0":2}')


def test_annotations_have_no_effect() -> None:
    plain = {"type": "object", "properties": {"a": {"type": "string"}}}
    noted = {
        "title": "T",
        "description": "D",
        "$comment": "c",
        "default": {},
        "x-order": 1,
        **plain,
        "properties": {"a": {"type": "string", "examples": ["x"], "readOnly": True, "deprecated": False}},
    }
    assert compiled(noted).rules == compiled(plain).rules
    assert compiled(noted).ignored == ("$.x-order",)


def test_members_come_in_either_order_that_the_schema_suggests() -> None:
    grammar = compiled(
        {
            "type": "object",
            "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
            "required": ["c", "a"],
            "additionalProperties": False,
        }
    )
    assert matches(grammar, '{"a":null,"b":null,"c":null}')
    assert matches(grammar, '{"c":null,"a":null,"b":null}')
    assert not matches(grammar, '{"b":null,"a":null,"c":null}')
    assert not matches(grammar, '{"c":null,"b":null,"a":null}')
