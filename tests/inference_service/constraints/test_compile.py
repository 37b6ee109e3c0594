from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.errors import MAX_SECONDS, ConstraintError, TookTooLong, time_limit
from inference_service.constraints.grammar import GrammarBuilder
from inference_service.constraints.json_schema.compiler import schema_node
from inference_service.constraints.json_schema.numbers import decimals, whole_numbers
from inference_service.constraints.json_text import JsonRules, Whitespace, dumps, marks
from inference_service.constraints.nodes import chars, either, maybe, repeat, seq, terminal
from inference_service.constraints.notations.ebnf import to_ebnf
from inference_service.constraints.notations.lark import to_lark
from inference_service.constraints.tools import CallableTool, CallList, calls_grammar
from tests.inference_service.constraints.derivation import Sampler, error_of, follows, matches
from tests.inference_service.constraints.schemas import SCHEMAS

pytestmark = pytest.mark.slow

COMPACT = marks(Whitespace.COMPACT)

OBJECTS = ["{}", '{"a":1}', '{"a": [1, {"b": null}], "c": "\\"\\u00e9"}', '{"a":{"a":{"a":{}}}}']
OTHERS = ["", "[]", "1", '{"a"}', '{"a":1,}', '{ "a":1}', '{"a":1}{}', '{"a":"\t"}', '{"a":1']


@pytest.mark.parametrize("text", OBJECTS)
def test_json_object_allows_any_object(text: str) -> None:
    assert matches(compile_constraint(ConstraintKind.JSON_OBJECT), text)


@pytest.mark.parametrize("text", OTHERS)
def test_json_object_allows_nothing_else(text: str) -> None:
    assert not matches(compile_constraint(ConstraintKind.JSON_OBJECT), text)


@pytest.mark.parametrize("name", SCHEMAS)
def test_flexible_white_space_does_not_change_values(name: str) -> None:
    """Texts with it validate, and the same value in other layouts is accepted, too."""
    schema = json.dumps(SCHEMAS[name])
    flexible = compile_constraint(ConstraintKind.JSON_SCHEMA, schema, Whitespace.FLEXIBLE)
    compact = compile_constraint(ConstraintKind.JSON_SCHEMA, schema)
    texts = [Sampler(compact, seed).sentence() for seed in range(3)]

    assert all(flexible.matches(text) for text in texts)
    for seed in range(3):
        written = Sampler(flexible, seed).sentence()
        Draft202012Validator(SCHEMAS[name]).validate(json.loads(written))
        assert flexible.matches(written)


@pytest.mark.parametrize(
    ("text", "in_flexible", "in_compact"),
    [
        ('{"a":[1,2],"b":{}}', True, True),
        ('{"a": [1, 2], "b": {}}', True, True),
        ('{\n\t"a" : [ 1 ,\r\n 2 ] ,\n\t"b": { }\n}', True, False),
        ('{%s"a":[],"b":{}}' % (" " * 64), True, False),
        ('{%s"a":[],"b":{}}' % (" " * 65), False, False),
        (' {"a":[],"b":{}}', False, False),
        ('{"a":[],"b":{}}\n', False, False),
        ('{"a":[1 2],"b":{}}', False, False),
        ('{"a":[],\x0b"b":{}}', False, False),
        ('{"a":[],"b":{"c": "x\n"}}', False, False),
    ],
    ids=str,
)
def test_white_space_is_only_between_tokens_of_json(text: str, in_flexible: bool, in_compact: bool) -> None:
    numbers = {"type": "array", "items": {"type": "integer"}}
    schema = json.dumps({"type": "object", "properties": {"a": numbers, "b": {}}, "required": ["a", "b"]})

    for whitespace, expected in ((Whitespace.FLEXIBLE, in_flexible), (Whitespace.COMPACT, in_compact)):
        assert matches(compile_constraint(ConstraintKind.JSON_SCHEMA, schema, whitespace), text) is expected


@pytest.mark.parametrize("kind", ["number", "integer"])
def test_bounds_beyond_all_numbers_have_no_effect(kind: str) -> None:
    """zod's `float64` has the range of a 64-bit float, which was once refused as infinite."""
    ends = {"minimum": -sys.float_info.max, "maximum": sys.float_info.max}
    bounded, free = (
        compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps({"type": kind, **more}))
        for more in (ends, {})
    )

    assert to_ebnf(bounded) == to_ebnf(free)


def test_every_json_object_that_is_generated_parses() -> None:
    grammar = compile_constraint(ConstraintKind.JSON_OBJECT)
    for seed in range(200):
        assert isinstance(json.loads(Sampler(grammar, seed).sentence()), dict)


def test_the_same_constraint_is_compiled_once_for_all_threads() -> None:
    source = json.dumps({"type": "object", "properties": {"once": {"type": "integer"}}})
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: compile_constraint(ConstraintKind.JSON_SCHEMA, source), range(50)))
    assert len(set(found)) == 1
    assert compile_constraint(ConstraintKind.JSON_SCHEMA, source) is found[-1]


def test_the_same_source_compiles_differently_for_each_kind() -> None:
    assert to_ebnf(compile_constraint(ConstraintKind.REGEX, "true")) == 'root ::= "true"\n'
    assert "json-value" in to_ebnf(compile_constraint(ConstraintKind.JSON_SCHEMA, "true"))
    with pytest.raises(ConstraintError):
        compile_constraint(ConstraintKind.GRAMMAR, "true")


@pytest.mark.parametrize("kind", [kind for kind in ConstraintKind if kind is not ConstraintKind.JSON_OBJECT])
def test_a_source_is_limited_in_bytes_and_must_be_text(kind: ConstraintKind) -> None:
    with pytest.raises(ConstraintError, match="524288"):
        compile_constraint(kind, "é" * 265_000)
    with pytest.raises(ConstraintError, match="surrogate"):
        compile_constraint(kind, "\ud800")


def test_hostile_schemas_are_processed_in_time() -> None:
    def chain(levels: int) -> dict[str, object]:
        both = {"allOf": [{"$ref": "#/$defs/d{}"}, {"title": "x"}], "minProperties": 0}
        return {
            f"d{level}": {"properties": {"a": _to(both, level + 1), "b": _to(both, level + 1)}}
            for level in range(levels)
        } | {f"d{levels}": {"type": "null"}}

    def _to(schema: dict[str, object], level: int) -> object:
        return json.loads(json.dumps(schema).replace("d{}", f"d{level}"))

    wide = {f"p{index}": {"enum": [f"{index}-{value}" for value in range(10)]} for index in range(300)}
    hostile = [
        {"$ref": "#/$defs/d0", "$defs": chain(40)},
        {"type": "object", "properties": wide},
        {"type": "array", "minItems": 60_000, "maxItems": 65_536, "items": {"maxLength": 65_536}},
        {"enum": list(range(1_000))},
        {"anyOf": [{"anyOf": [{"const": f"{i}-{j}"} for j in range(30)]} for i in range(30)]},
        {"type": "string", "pattern": "^(" + "|".join(["[a-z]{0,9}x"] * 500) + ")$"},
        {"oneOf": [{"type": "object", "properties": {"k": {"const": i}, **wide}} for i in range(9)]},
    ]
    began = time.thread_time()
    for schema in hostile:
        assert len(error_of(ConstraintKind.JSON_SCHEMA, json.dumps(schema))) < 1_000
    assert time.thread_time() - began < 30


_WORDS = [f"{number * 7919 % 100_003:05d}" for number in range(15_000)]
_LARGE: dict[str, dict[str, Any]] = {
    "enum": {"enum": [f"{word}-{word}-{word}" for word in _WORDS]},
    "enums together": {"allOf": [{"enum": _WORDS[:14_000]}, {"enum": _WORDS[5_000:]}]},
    "enum with a pattern": {"enum": _WORDS, "pattern": "^([0-4]|[0-9]a*)*[0-9]*$"},
    "text": {"pattern": "a" * 400_000},
    "classes": {"pattern": "[ab]" * 100_000},
    "optional characters": {"pattern": "^" + "a?" * 100_000 + "$"},
    "patterns": {"allOf": [{"pattern": "^[ab]*a[ab]{18}$"}, {"pattern": "^[ab]*b[ab]{18}$"}]},
    "patterns for names": {
        "type": "object",
        "patternProperties": {
            f"(a|b{{1,{count + 20}}}|[a-f]{{{count},40}}){{3,40}}x{count}": {
                "type": ["string", "null"][count % 2]
            }
            for count in range(6)
        },
    },
    "properties": {"type": "object", "properties": {word: {"type": "string"} for word in _WORDS}},
    "references": {
        "$ref": "#/$defs/d0",
        "$defs": {
            f"d{level}": {
                "type": "object",
                "properties": {
                    f"p{way}": {"$ref": f"#/$defs/d{(level * 7 + way) % 800}"} for way in range(12)
                },
            }
            for level in range(800)
        },
    },
    "branches that may hold together": {
        "oneOf": [{"type": "object", "required": [f"a{number % 4}"]} for number in range(1_000)]
    },
    "branches with a kind": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": number}}, "required": ["kind"]}
            for number in range(600)
        ]
    },
}


@pytest.mark.parametrize("name", _LARGE)
def test_compiling_and_printing_are_bounded_in_processor_time(name: str) -> None:
    began = time.thread_time()
    try:
        grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(_LARGE[name]))
    except ConstraintError:
        grammar = None
    assert time.thread_time() - began < MAX_SECONDS + 1
    began = time.thread_time()
    if grammar is not None:
        to_lark(grammar)
    assert time.thread_time() - began < MAX_SECONDS + 1


def test_a_schema_that_takes_too_long_is_refused_with_its_place() -> None:
    schema = {"type": "object", "properties": {"deep": _LARGE["patterns for names"]}}
    with time_limit(0.05), pytest.raises(TookTooLong) as caught:
        schema_node(GrammarBuilder(), schema, COMPACT)
    assert caught.value.path.startswith("$.properties.deep")


def test_an_automaton_that_is_too_large_to_print_is_refused_soon() -> None:
    hard = "".join(f"(?=.*{chr(97 + number)}.{{{number + 3}}})" for number in range(12)) + ".*"
    grammar = compile_constraint(ConstraintKind.REGEX, hard)
    began = time.thread_time()
    with pytest.raises(ConstraintError, match=r"too large|seconds"):
        to_ebnf(grammar)
    assert time.thread_time() - began < MAX_SECONDS + 2


def test_the_time_limit_applies_to_each_tool() -> None:
    slow = {"type": "object", "properties": {"deep": _LARGE["patterns for names"]}}
    quick = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    tools = [
        CallableTool('{"name": "slow", "arguments": ', slow, strict=False, path="tools[0]"),
        CallableTool('{"name": "quick", "arguments": ', quick, strict=False, path="tools[1]"),
    ]
    began = time.thread_time()
    grammar = calls_grammar(tools, CallList("}", "\n", 1))
    assert time.thread_time() - began < MAX_SECONDS + 1
    assert not any(path.startswith("tools[1]") for path in grammar.ignored)
    assert not grammar.matches('{"name": "quick", "arguments": {}}')


def test_thousands_of_members_and_elements_do_not_recurse() -> None:
    names = [f"p{number}" for number in range(3_000)]
    members = {
        "type": "object",
        "properties": {name: {"type": "null"} for name in names},
        "required": names[1:],
    }
    grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(members))
    assert grammar.matches(json.dumps(dict.fromkeys(names[1:]), separators=(",", ":")))
    elements = {
        "type": "array",
        "prefixItems": [{"const": number} for number in range(1_000)],
        "items": False,
    }
    grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(elements))
    assert follows(grammar, json.dumps(list(range(1_000)), separators=(",", ":")))


def test_several_schemas_share_one_grammar() -> None:
    builder = GrammarBuilder()
    schemas = {
        "get weather": {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]},
        "get_weather": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/d"}},
            "$defs": {"d": {"const": 1}},
        },
        "root": {
            "type": "object",
            "properties": {"d": {"$ref": "#/$defs/d"}},
            "$defs": {"d": {"type": "null"}},
        },
    }
    calls = [
        seq('{"name": ', dumps(name), ', "parameters": ', schema_node(builder, schema, COMPACT), "}")
        for name, schema in schemas.items()
    ]
    grammar = builder.build(repeat(either(*calls), 1, 2))
    assert matches(grammar, '{"name": "get weather", "parameters": {"city":"Rome"}}')
    assert matches(grammar, '{"name": "get_weather", "parameters": {"city":1}}' * 2)
    assert matches(grammar, '{"name": "root", "parameters": {"d":null}}')
    assert not matches(grammar, '{"name": "root", "parameters": {"d":1}}')


def test_errors_of_a_schema_name_its_place_in_the_larger_document() -> None:
    with pytest.raises(ConstraintError) as caught:
        schema_node(
            GrammarBuilder(),
            {"type": "object", "properties": {"a": {"pattern": "(?<=a)b"}}},
            COMPACT,
            path="$.tools[2].function.parameters",
        )
    assert caught.value.path == "$.tools[2].function.parameters.properties.a.pattern"


def test_parts_can_be_put_together_freely() -> None:
    builder = GrammarBuilder()
    name = builder.rule("name", repeat(chars("az", "_"), 1, 8))
    grammar = builder.build(seq("<", name, maybe(seq(" ", name)), ">", JsonRules(builder, COMPACT).object()))
    assert matches(grammar, "<a_b c>{}")
    assert grammar.shortest_text() == "<a>{}"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_compiled_grammar_is_accepted_as_a_constraint(name: str) -> None:
    grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMAS[name]))
    again = compile_constraint(ConstraintKind.GRAMMAR, to_ebnf(grammar))
    assert matches(again, Sampler(grammar, 1).sentence())
    assert matches(grammar, Sampler(again, 2).sentence())


def test_large_enumerations_are_complete() -> None:
    values = [f"value {number}" for number in range(5_000)]
    grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps({"enum": values}))
    assert all(follows(grammar, f'"{value}"') for value in values[::977])
    assert all(grammar.matches(f'"{value}"') for value in values[::97])
    assert not grammar.matches('"value "')


def test_values_with_common_prefixes_are_complete() -> None:
    values = ["a" * length for length in range(1, 60)]
    grammar = compile_constraint(ConstraintKind.REGEX, "|".join(reversed(values)))
    assert all(matches(grammar, value) for value in values)
    assert not matches(grammar, "")
    assert not matches(grammar, "a" * 60)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_range_of_integers_has_exactly_its_members(one: int, two: int, probe: int) -> None:
    low, high = sorted((one, two))
    grammar = GrammarBuilder().build(terminal(whole_numbers(low, high)))
    for number in (low, high, low - 1, high + 1, probe):
        assert number < 0 or matches(grammar, str(number)) == (low <= number <= high)
    assert not matches(grammar, f"0{high}")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**5), st.integers(0, 10**5), st.integers(0, 10**5), st.integers(1, 3))
def test_a_range_of_decimals_has_exactly_its_members(one: int, two: int, probe: int, places: int) -> None:
    low, high = sorted((one, two))
    grammar = GrammarBuilder().build(terminal(decimals(low, high, places)))
    for number in (low, high, low - 1, high + 1, probe):
        text = f"{number // 10**places}.{number % 10**places:0{places}}"
        assert number < 0 or matches(grammar, text) == (low <= number <= high)


_BOUNDS = st.integers(-(10**6), 10**6) | st.decimals(-1000, 1000, places=2).map(float)


@settings(max_examples=100, deadline=None)
@given(_BOUNDS, _BOUNDS, st.booleans(), st.booleans(), st.integers(0, 2**16))
def test_generated_numbers_are_within_their_bounds(
    one: float, two: float, excludes_low: bool, excludes_high: bool, seed: int
) -> None:
    low, high = sorted((one, two))
    schema = {
        "type": "number",
        "exclusiveMinimum" if excludes_low else "minimum": low,
        "exclusiveMaximum" if excludes_high else "maximum": high,
    }
    try:
        grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))
    except ConstraintError:
        assert low == high
        return
    number = json.loads(Sampler(grammar, seed).sentence())
    assert low < number or (number == low and not excludes_low)
    assert number < high or (number == high and not excludes_high)


def _recursive_union(one: dict[str, object], other: dict[str, object]) -> str:
    def branch(properties: dict[str, object]) -> dict[str, object]:
        named = {**properties, "next": {"$ref": "#"}, "last": {"type": "null"}}
        return {"type": "object", "properties": named, "required": [*named], "additionalProperties": False}

    return json.dumps({"anyOf": [branch(one), branch(other), {"type": "null"}]})


def test_a_recursive_union_with_similar_branches_is_accepted() -> None:
    same: dict[str, object] = {"a": {"type": "integer"}}
    union = _recursive_union(same, {"a": {"type": "integer", "minimum": 0}})
    assert error_of(ConstraintKind.JSON_SCHEMA, union) == ""


def test_a_recursive_union_with_distinct_branches_is_accepted() -> None:
    kinds = _recursive_union({"kind": {"const": "add"}}, {"kind": {"const": "mul"}})
    assert error_of(ConstraintKind.JSON_SCHEMA, kinds) == ""


def test_a_recursive_object_of_many_optional_members_is_accepted() -> None:
    properties = {f"p{index}": {"$ref": "#"} for index in range(300)}
    assert (
        error_of(ConstraintKind.JSON_SCHEMA, json.dumps({"type": "object", "properties": properties})) == ""
    )
