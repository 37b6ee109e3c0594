from __future__ import annotations

import json
from typing import Any

import pytest

from rest_bridge.errors import ApiError, in_rest_names, rest_name
from rest_bridge.openai.convert import own_names
from rest_bridge.openai.requests import ChatCompletionRequest, CompletionRequest
from rest_bridge.request import parse_body
from tests.rest_bridge.bodies import chat, completion, sent

SCHEMA = {"type": "object", "properties": {"é": {"type": "integer", "maximum": 10**30}, "a": {}}}
TEXT = '{"type":"object","properties":{"é":{"type":"integer","maximum":1' + "0" * 30 + '},"a":{}}}'


def schema_format(**more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, **more}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        ({"response_format": schema_format()}, {"json_schema": TEXT}),
        ({"response_format": schema_format(strict=False, description="d")}, {"json_schema": TEXT}),
        ({"response_format": {"type": "regex", "regex": "a+"}}, {"regex": "a+"}),
        ({"response_format": {"type": "grammar", "grammar": "root ::= x"}}, {"grammar": "root ::= x"}),
        ({"response_format": {"type": "ebnf", "ebnf": "root ::= x"}}, {"grammar": "root ::= x"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            {"json_schema": "{}"},
        ),
        ({"guided_json": SCHEMA}, {"json_schema": TEXT}),
        ({"guided_json": "{ }"}, {"json_schema": "{ }"}),
        (
            {"guided_json": "{}", "whitespace": "flexible"},
            {"json_schema": "{}", "whitespace": "WHITESPACE_FLEXIBLE"},
        ),
        (
            {"response_format": {"type": "json_object"}, "whitespace": "compact"},
            {"json_object": True, "whitespace": "WHITESPACE_COMPACT"},
        ),
        ({"guided_regex": ""}, {"regex": ""}),
        ({"guided_grammar": "g", "response_format": {"type": "text"}}, {"grammar": "g"}),
    ],
    ids=str,
)
def test_all_names_of_a_constraint_are_converted(given: dict[str, Any], expected: dict[str, Any]) -> None:
    """All become the protocol's field; schemas keep the order of names, and their numbers."""
    assert sent(chat(**given))["constraint"] == expected
    assert sent(completion(**given))["constraint"] == expected


@pytest.mark.parametrize("given", [{"response_format": {"type": "text"}}, {"response_format": None}])
def test_the_format_text_sets_no_constraint(given: dict[str, Any]) -> None:
    """Text is the default format."""
    assert sent(chat(**given)) == sent(chat())


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"response_format": "json"}, "response_format", "invalid_value"),
        ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": schema_format(schema=True)},
            "response_format.json_schema.schema",
            "invalid_value",
        ),
        ({"response_format": schema_format(strict=1)}, "response_format.json_schema.strict", "invalid_value"),
        ({"response_format": {"type": "regex"}}, "response_format.regex", "missing_required_parameter"),
        ({"response_format": {"type": "ebnf", "ebnf": 5}}, "response_format.ebnf", "invalid_value"),
        ({"guided_json": []}, "guided_json", "invalid_value"),
        ({"guided_regex": {}}, "guided_regex", "invalid_value"),
        ({"guided_regex": "a", "guided_grammar": "b"}, "guided_grammar", "invalid_value"),
        ({"guided_json": {}, "whitespace": "wide"}, "whitespace", "invalid_value"),
        ({"guided_json": {}, "whitespace": 5}, "whitespace", "invalid_value"),
        ({"response_format": {"type": "json_object"}, "guided_json": {}}, "guided_json", "invalid_value"),
    ],
    ids=str,
)
def test_a_malformed_constraint_is_refused_by_name(given: dict[str, Any], param: str, code: str) -> None:
    """More than one constraint is refused, too."""
    with pytest.raises(ApiError) as caught:
        sent(chat(**given))

    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert caught.value.message.startswith(param)


def test_a_number_that_is_infinite_is_refused() -> None:
    """1e999 is parsed as infinity, which JSON cannot represent."""
    raw = b'{"model":"m","messages":[{"role":"user","content":"x"}],"guided_json":{"const":1e999}}'
    with pytest.raises(ApiError) as caught:
        sent_raw(raw)

    assert (caught.value.status, caught.value.param) == (400, "guided_json")


def sent_raw(raw: bytes) -> None:
    from rest_bridge.openai.convert import chat_request

    chat_request(parse_body(ChatCompletionRequest, raw))


@pytest.mark.parametrize(
    ("body", "service", "rest"),
    [
        (chat(guided_json={}), "constraint.json_schema", "guided_json"),
        (
            chat(response_format=schema_format()),
            "constraint.json_schema",
            "response_format.json_schema.schema",
        ),
        (chat(response_format={"type": "regex", "regex": "a"}), "constraint.regex", "response_format.regex"),
        (chat(response_format={"type": "ebnf", "ebnf": "a"}), "constraint.grammar", "response_format.ebnf"),
        (chat(guided_regex="a"), "constraint.regex", "guided_regex"),
        (chat(), "output.top_logprobs", "top_logprobs"),
        (completion(logprobs=99), "output.top_logprobs", "logprobs"),
        (completion(max_completion_tokens=0), "stopping.max_tokens", "max_completion_tokens"),
        (chat(max_completion_tokens=0, max_tokens=0), "stopping.max_tokens", "max_tokens"),
    ],
    ids=str,
)
def test_errors_have_the_caller_s_name_of_a_parameter(body: dict[str, Any], service: str, rest: str) -> None:
    """The service has one name for each parameter, but the body may use another."""
    schema = CompletionRequest if "prompt" in body else ChatCompletionRequest
    names = own_names(parse_body(schema, json.dumps(body).encode()))

    assert rest_name(f"{service}.type[1]", names) == f"{rest}.type[1]"
    assert in_rest_names(f"is 99 at `{service}.type[1]`.", names) == f"is 99 at {rest}.type[1]."
