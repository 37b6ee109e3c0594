"""Grammars for tool calls: each of their texts consists of the demanded calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.grammar import Grammar
from inference_service.output.tool_calls import ToolCallParser
from inference_service.prompt.conversation import Tool, ToolChoice, ToolMode
from inference_service.prompt.tool_formats import BARE, PLAIN, TAGGED, ToolFormat
from inference_service.scheduling.constraint import MAX_CALLS, call_grammar, most_calls
from tests.inference_service.constraints.derivation import Sampler, matches
from tests.support.tool_calls import Reader

AUTO, REQUIRED, NONE = (ToolChoice(mode) for mode in (ToolMode.AUTO, ToolMode.REQUIRED, ToolMode.NONE))
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = Tool("get_weather", "", SCHEMA, strict=True)
CLOCK = Tool("get_time")
ANYTHING = Tool("log", "", {"type": "object"})
TOOLS = (WEATHER, CLOCK, ANYTHING)
FORMATS = (PLAIN, BARE["parameters"], TAGGED["arguments"])
NOT_ENFORCEABLE = {
    "type": "object",
    "properties": {"x": {"type": "string", "pattern": "(?<=a)b", "maxLength": 2}},
    "required": ["x"],
}


def named(name: str) -> ToolChoice:
    return ToolChoice(ToolMode.NAMED, name)


def grammar(
    choice: ToolChoice = REQUIRED, tools: Sequence[Tool] = TOOLS, form: ToolFormat = PLAIN
) -> Grammar:
    text = call_grammar(tools, choice, form)
    assert text is not None
    return text


def calls_of(text: str) -> list[tuple[str, Mapping[str, Any]]]:
    parser = ToolCallParser([tool.name for tool in TOOLS], "call_{}".format)
    reader = Reader(parser)
    fed, rest = reader.feed(text), reader.finish()
    assert parser.called, text
    assert not fed.content + rest.content, text
    deltas = [*fed.deltas, *rest.deltas]
    names = [delta.name for delta in deltas if delta.name]
    return [
        (name, json.loads("".join(delta.arguments for delta in deltas if delta.index == index)))
        for index, name in enumerate(names)
    ]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("seed", range(20))
def test_every_text_consists_of_calls_of_the_tools(form: ToolFormat, seed: int) -> None:
    calls = calls_of(Sampler(grammar(form=form), seed).sentence())

    assert 1 <= len(calls) <= MAX_CALLS
    for name, arguments in calls:
        if name == "get_weather":
            assert set(arguments) == {"city", "days"}
            assert arguments["days"] in range(10)
        elif name == "get_time":
            assert arguments == {}
        else:
            assert name == "log"


@pytest.mark.parametrize("seed", range(10))
def test_the_named_tool_is_called_once(seed: int) -> None:
    ((name, _),) = calls_of(Sampler(grammar(named("log")), seed).sentence())

    assert name == "log"


def test_calls_in_the_formats_of_models_are_accepted() -> None:
    weather, clock = '{"city":"Paris","days":3}', "{}"
    text = (
        f'{{"name": "get_weather", "parameters": {weather}}}; {{"name": "get_time", "parameters": {clock}}}'
    )

    assert matches(grammar(form=BARE["parameters"]), text)
    assert not matches(grammar(form=PLAIN), text)
    assert matches(
        grammar(form=TAGGED["arguments"]),
        f'<tool_call>\n{{"name": "get_weather", "arguments": {weather}}}\n</tool_call>',
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello",
        '{"name": "get_time", "arguments": {}} and',
        '{"name": "get_time", "arguments": {}}\n',
        '{"name": "get_time", "arguments": {"a":1}}',
        '{"name": "get_weather", "arguments": {}}',
        '{"name": "get_weather", "arguments": {"city":"Paris","days":10}}',
        '{"name": "nobody", "arguments": {}}',
        "\n".join(['{"name": "get_time", "arguments": {}}'] * (MAX_CALLS + 1)),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    assert not matches(grammar(), text)


def test_the_number_of_calls_is_bounded() -> None:
    call = '{"name": "get_time", "arguments": {}}'
    single = call_grammar(TOOLS, REQUIRED, PLAIN, parallel=False)

    assert matches(grammar(), "\n".join([call] * MAX_CALLS))
    assert single is not None
    assert matches(single, call)
    assert not matches(single, f"{call}\n{call}")
    assert not matches(grammar(named("get_time")), f"{call}\n{call}")
    assert not matches(grammar(named("get_weather")), call)
    assert [most_calls(c) for c in (AUTO, REQUIRED, named("log"))] == [None, MAX_CALLS, 1]
    assert [most_calls(c, parallel=False) for c in (AUTO, REQUIRED, named("log"))] == [1, 1, 1]


def test_there_is_no_grammar_if_the_model_decides() -> None:
    assert call_grammar(TOOLS, AUTO, PLAIN) is None
    assert call_grammar(TOOLS, NONE, PLAIN) is None
    assert call_grammar(TOOLS, NONE, PLAIN, answer={"type": "object"}) is None


def test_the_grammar_allows_calls_or_the_demanded_json() -> None:
    answer = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    text = call_grammar(TOOLS, AUTO, PLAIN, answer={**answer, "additionalProperties": False})

    assert text is not None
    assert matches(text, '{"sum":3}')
    assert matches(text, '{"name": "get_time", "arguments": {}}')
    assert not matches(text, '{"sum":"3"}')
    assert not matches(text, "3")


def test_a_required_call_excludes_other_answers() -> None:
    text = call_grammar(TOOLS, REQUIRED, PLAIN, answer={"type": "object"})

    assert text is not None
    assert not matches(text, "{}")


def test_unsupported_keywords_of_tools() -> None:
    """They are an error with a place for strict tools; for other tools only they are dropped, and named."""
    with pytest.raises(ConstraintError) as raised:
        grammar(tools=[CLOCK, Tool("f", "", NOT_ENFORCEABLE, strict=True)])

    assert raised.value.path == "chat.tools[1].parameters.properties.x.pattern"
    text = grammar(tools=[WEATHER, Tool("log", "", NOT_ENFORCEABLE)])
    assert text.ignored == ("chat.tools[1].parameters.properties.x.pattern",)
    assert matches(text, '{"name": "log", "arguments": {"x":"ab","y":[1]}}')
    assert not matches(text, '{"name": "log", "arguments": {"x":"abc"}}')
    assert not matches(text, '{"name": "log", "arguments": {"x":1}}')
    assert not matches(text, '{"name": "log", "arguments": {}}')
    assert not matches(text, '{"name": "log", "arguments": []}')
    assert not matches(text, '{"name": "get_weather", "arguments": {"y":[1]}}')


@pytest.mark.parametrize(
    ("keywords", "ignored", "kept", "refused"),
    [
        ({"format": "float", "type": "number"}, [], "1.5", '"a"'),
        ({"format": "no-such-format", "type": "string"}, ["format"], '"a"', "1"),
        ({"type": "float"}, ["type"], '"a"', None),
        ({"type": "array", "items": {"type": "string"}, "enum": ["x"]}, ["enum"], '["y"]', '"x"'),
        ({"type": "integer", "minimum": 3, "maximum": 2}, ["maximum"], "4", "1"),
        ({"oneOf": [{"type": "object"}, {"properties": {"a": {"pattern": "a"}}}], "x": 1}, ["x"], "{}", None),
        (
            {"type": "array", "uniqueItems": True, "items": {"type": "integer"}},
            ["uniqueItems"],
            "[1, 1]",
            '["a"]',
        ),
    ],
)
def test_a_single_keyword_is_dropped_and_named_with_its_path(
    keywords: dict[str, Any], ignored: list[str], kept: str, refused: str | None
) -> None:
    schema = {"properties": {"a": keywords}, "required": ["a"], "additionalProperties": False}
    text = grammar(tools=[Tool("log", "", schema)])

    assert [path.removeprefix("chat.tools[0].parameters.properties.a.") for path in text.ignored] == ignored
    if not isinstance(keywords.get("oneOf"), list):
        assert matches(text, f'{{"name": "log", "arguments": {{"a":{kept}}}}}')
    assert refused is None or not matches(text, f'{{"name": "log", "arguments": {{"a":{refused}}}}}')
    assert not matches(text, '{"name": "log", "arguments": {}}')


def test_a_schema_that_nothing_satisfies_is_dropped_as_a_whole() -> None:
    text = grammar(tools=[Tool("log", "", {"required": ["a"], "properties": {"a": False}})])

    assert text.ignored == ("chat.tools[0].parameters",)
    assert matches(text, '{"name": "log", "arguments": {}}')


@pytest.mark.parametrize("schema", [{"type": "string"}, {"type": ["object", "null"]}])
def test_arguments_are_always_an_object(schema: dict[str, Any]) -> None:
    with pytest.raises(ConstraintError) as raised:
        grammar(tools=[Tool("f", "", schema, strict=True)])

    assert raised.value.path == "chat.tools[0].parameters.type"
    assert grammar(tools=[Tool("f", "", schema)]).shortest_text() == '{"name": "f", "arguments": {}}'
    without_type = {"properties": {"a": {"type": "null"}}, "required": ["a"]}
    assert calls_of(grammar(tools=[Tool("log", "", without_type)]).shortest_text()) == [("log", {"a": None})]


def test_too_deeply_nested_schemas_are_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"not": schema}

    with pytest.raises(ConstraintError, match="nested too deeply"):
        grammar(tools=[Tool("f", "", schema)])
