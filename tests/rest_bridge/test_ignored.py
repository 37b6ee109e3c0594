from __future__ import annotations

import json
import re
from typing import Any

import pytest

from rest_bridge.errors import ApiError, rest_name
from rest_bridge.openai import policy
from rest_bridge.openai.convert import chat_request, completion_request, own_names
from rest_bridge.openai.requests import ChatCompletionRequest, CompletionRequest
from rest_bridge.request import parse_body
from tests.rest_bridge.bodies import chat, completion
from tests.support.parsing import ignored_by_service as ignored_there

TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "1", "function": {"name": "f", "arguments": "{}"}, "index": 0}

_CHAT: Any = (ChatCompletionRequest, chat_request)
_COMPLETION: Any = (CompletionRequest, completion_request)


def names(body: dict[str, Any], *, streams: bool = True, strict: bool = False) -> list[str]:
    """The parameters without effect, from the bridge and the service, by REST's names."""
    schema, convert = _CHAT if "messages" in body else _COMPLETION
    request = parse_body(schema, json.dumps(body).encode())
    here = policy.ignored_parameters(request, streams=streams, strict=strict)
    message = convert(request)
    return [*here, *(rest_name(path, own_names(request)) for path in ignored_there(message))]


@pytest.mark.parametrize("name", sorted(policy.REFUSED_IN_CHAT))
def test_unsupported_parameters_of_chat_are_refused(name: str) -> None:
    """A parameter of OpenAI's API that is not supported is a 400 that names it."""
    with pytest.raises(ApiError) as caught:
        names(chat(**{name: {"some": "thing"}}))

    assert (caught.value.status, caught.value.code, caught.value.param) == (
        400,
        "unsupported_parameter",
        name,
    )


@pytest.mark.parametrize("name", sorted(policy.REFUSED_IN_COMPLETIONS))
def test_unsupported_parameters_of_completions_are_refused(name: str) -> None:
    """The error is a 400 that names the parameter."""
    with pytest.raises(ApiError) as caught:
        names(completion(**{name: [5]}))

    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize("strict", [False, True])
def test_harmless_values_of_unsupported_parameters_are_accepted(strict: bool) -> None:
    """Values that mean `off` are accepted and not named."""
    nothing = dict.fromkeys(policy.REFUSED_IN_CHAT)
    assert names(chat(**nothing), strict=strict) == []
    for name, harmless in policy.REFUSED_IN_CHAT.items():
        for value in harmless:
            assert names(chat(**{name: value}), strict=strict) == []
    for name, harmless in policy.REFUSED_IN_COMPLETIONS.items():
        for value in harmless:
            assert names(completion(**{name: value}), strict=strict) == []


@pytest.mark.parametrize("value", [False, 0, "", ["x"], {}])
def test_only_the_exact_harmless_value_is_accepted(value: object) -> None:
    """For `functions` the empty array is harmless, but false is not."""
    with pytest.raises(ApiError, match="functions is not supported"):
        names(chat(functions=value))


@pytest.mark.parametrize("name", sorted(policy.WITHOUT_EFFECT))
@pytest.mark.parametrize("strict", [False, True])
def test_parameters_without_effect_are_accepted_and_named(name: str, strict: bool) -> None:
    """Parameters without effect by their nature are accepted also under `strict`."""
    assert names(chat(**{name: {"any": 1}}), strict=strict) == [name]
    assert names(chat(**{name: None}), strict=strict) == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (chat(tempratur=1), "tempratur"),
        (completion(mirostat_tau=1), "mirostat_tau"),
        (chat(stream_options={"include_obfuscation": True}), "stream_options.include_obfuscation"),
        (chat(messages=[{"role": "user", "content": "x", "mood": "good"}]), "messages[0].mood"),
        (
            chat(
                messages=[
                    {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"a": 1}}]}
                ]
            ),
            "messages[0].content[0].cache_control",
        ),
        (chat(tools=[{**TOOL, "x": 1}]), "tools[0].x"),
        (chat(tools=[TOOL, {**TOOL, "function": {"name": "g", "x": 1}}]), "tools[1].function.x"),
        (chat(tools=[TOOL], tool_choice={**TOOL, "x": 1}), "tool_choice.x"),
        (chat(messages=[{"role": "assistant", "tool_calls": [CALL]}]), "messages[0].tool_calls[0].index"),
        (chat(response_format={"type": "text", "x": 1}), "response_format.x"),
        (
            chat(
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"y": 1}, "x": 1},
                }
            ),
            "response_format.json_schema.x",
        ),
    ],
    ids=str,
)
def test_an_unknown_name_is_listed_or_refused(body: dict[str, Any], path: str) -> None:
    """At any depth it is listed with its path, or is a 400 under `strict`."""
    assert names(body) == [path]
    with pytest.raises(ApiError) as caught:
        names(body, strict=True)
    assert (caught.value.status, caught.value.param) == (400, path)


def test_names_of_speakers_are_accepted_without_effect() -> None:
    """This holds also under `strict`; null is not named."""
    turn = {"role": "assistant", "content": "x", "name": "me", "refusal": None}

    assert names(chat(messages=[turn]), strict=True) == ["messages[0].name"]


@pytest.mark.parametrize(
    ("turn", "is_named"),
    [
        ({"role": "assistant", "content": None, "refusal": "No."}, False),
        ({"role": "assistant", "content": "x", "refusal": "No."}, True),
        ({"role": "user", "content": "x", "refusal": "No."}, True),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, False),
    ],
    ids=str,
)
def test_an_unused_refusal_of_a_message_is_named(turn: dict[str, Any], is_named: bool) -> None:
    assert names(chat(messages=[turn]), strict=True) == ["messages[0].refusal"] * is_named


@pytest.mark.parametrize("name", sorted(policy.REFUSED_IN_MESSAGES))
def test_unsupported_members_of_a_message_are_refused(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        names(chat(messages=[{"role": "assistant", "content": "x", name: [True]}]))

    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", f"messages[0].{name}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_tokens", 5),
        ("bad_words", ["x"]),
        ("truncate_prompt_tokens", 5),
        ("truncate_prompt_tokens", -1),
        ("use_beam_search", True),
        ("length_penalty", 1.2),
        ("skip_special_tokens", False),
        ("logits_processors", ["x"]),
        ("dry_multiplier", 0.8),
        ("mirostat", 2),
        ("do_sample", False),
        ("options", {"num_ctx": 5}),
        ("min_tokens", True),
    ],
)
@pytest.mark.parametrize("make", [chat, completion])
def test_parameters_of_other_servers_are_refused_by_name(make: Any, name: str, value: object) -> None:
    with pytest.raises(ApiError) as caught:
        names(make(**{name: value}))

    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)


def test_the_error_suggests_the_name_of_the_parameter_here() -> None:
    with pytest.raises(ApiError, match=r"max_new_tokens is not supported here\. Use max_tokens\."):
        names(completion(max_new_tokens=5))
    with pytest.raises(ApiError, match=r"guided_whitespace_pattern is not supported here\. Use whitespace\."):
        names(completion(guided_json={}, guided_whitespace_pattern=" *"))


def test_no_parameter_is_both_declared_and_refused() -> None:
    assert not ChatCompletionRequest.model_fields.keys() & policy.REFUSED_IN_CHAT.keys()
    assert not CompletionRequest.model_fields.keys() & policy.REFUSED_IN_COMPLETIONS.keys()
    assert not policy.WITHOUT_EFFECT & (policy.REFUSED_IN_CHAT.keys() | policy.REFUSED_IN_COMPLETIONS.keys())


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, ["tools[1].function.strict"]),
        ({"tool_choice": "auto"}, ["tools[1].function.strict"]),
        ({"tool_choice": "none", "guided_json": {}}, ["tools[1].function.strict"]),
        ({"tool_choice": "required"}, []),
        ({"response_format": {"type": "json_object"}}, []),
        ({"guided_json": {}}, []),
        ({"tool_choice": TOOL}, []),
    ],
    ids=str,
)
@pytest.mark.parametrize("strict", [False, True])
def test_strict_tools_have_an_effect_only_if_calls_are_demanded(
    choice: dict[str, Any], expected: list[str], strict: bool
) -> None:
    """If the model may choose between calls and text, nothing enforces the schema."""
    tools = [{"type": "function", "function": {"name": "f", "strict": on}} for on in (False, True)]

    assert names(chat(tools=tools, **choice), strict=strict) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"include_stop_str_in_output": True}, ["include_stop_str_in_output"]),
        ({"include_stop_str_in_output": True, "stop": []}, ["include_stop_str_in_output"]),
        ({"include_stop_str_in_output": True, "stop": "a"}, []),
        ({"include_stop_str_in_output": False}, []),
        ({"tool_choice": "none", "parallel_tool_calls": True}, ["tool_choice", "parallel_tool_calls"]),
        ({"tool_choice": "auto", "parallel_tool_calls": False, "tools": [TOOL]}, []),
        ({"tool_choice": "required", "tools": [TOOL], "guided_json": {}}, ["guided_json"]),
        ({"tool_choice": "auto", "tools": [TOOL], "guided_json": {}}, []),
        ({"whitespace": "flexible"}, ["whitespace"]),
        ({"whitespace": "flexible", "response_format": {"type": "text"}}, ["whitespace"]),
        ({"whitespace": "compact", "guided_regex": "a"}, ["whitespace"]),
        ({"whitespace": "flexible", "guided_json": {}}, []),
    ],
    ids=str,
)
def test_a_parameter_that_needs_another_one_is_named(given: dict[str, Any], expected: list[str]) -> None:
    """The service reports it, and the bridge uses the caller's name for it."""
    assert names(chat(**given)) == expected


def test_members_of_other_response_formats_are_named() -> None:
    """Only the members for the type of the format have an effect."""
    schema = {"name": "n", "schema": {}}
    response_format = {"type": "regex", "regex": "a", "ebnf": "b", "grammar": None, "json_schema": schema}

    assert names(chat(response_format=response_format)) == [
        "response_format.json_schema",
        "response_format.ebnf",
    ]


@pytest.mark.parametrize("strict", [False, True])
def test_the_description_of_a_schema_is_named(strict: bool) -> None:
    """The model never sees the description. The schema's name is only a label that every SDK sends."""
    schema = {"name": "n", "description": "d", "schema": {}, "strict": True}
    response_format = {"type": "json_schema", "json_schema": schema}

    assert names(chat(response_format=response_format), strict=strict) == [
        "response_format.json_schema.description"
    ]
    schema["description"] = None
    assert names(chat(response_format=response_format), strict=strict) == []


@pytest.mark.parametrize("streams", [False, True])
def test_streaming_has_no_effect_for_a_validation(streams: bool) -> None:
    """A validation is answered with one reply."""
    body = chat(stream=True, stream_options={"include_usage": True})

    assert names(body, streams=streams) == ([] if streams else ["stream_options", "stream"])


def test_stream_options_have_no_effect_without_a_stream() -> None:
    """`stream_options` is named if the reply does not stream."""
    body = chat(stream_options={"include_usage": True})

    assert names(body, streams=False) == ["stream_options"]
    assert names(body, streams=True) == []


@pytest.mark.parametrize("name", ["", "a\r\nx-evil: 1", "naïve", "😀" * 500, "a,b", 'q"uote', "x" * 5000])
def test_names_are_safe_in_a_header(name: str) -> None:
    """The header is one safe line for any name of a member."""
    found = names(chat(**{name: 1}))
    value = policy.ignored_header(found)[policy.HEADER]

    assert re.fullmatch(r"[A-Za-z0-9_.\[\]-]{1,64}", value)


def test_the_header_is_bounded() -> None:
    """A long list of unknown names ends with an ellipsis."""
    value = policy.ignored_header(names(chat(**{f"unknown{n}": 1 for n in range(5000)})))[policy.HEADER]

    assert len(value) <= 1010
    assert value.startswith("unknown0,unknown1,")
    assert value.endswith(",...")


def test_names_from_the_service_are_safe_in_a_header() -> None:
    """It names unknown fields by their numbers."""
    assert policy.ignored_header(["top_p", "sampling.field 99"]) == {
        "x-ignored-parameters": "top_p,sampling.field_99"
    }
    assert policy.ignored_header([]) == {}
