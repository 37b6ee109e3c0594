"""Requests for every feature, as REST bodies: valid ones, and invalid ones with the expected error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.service import MODEL_ID

Body = dict[str, Any]


def chat(text: str = "Name a city on the Rhine.", **more: Any) -> Body:
    """A chat request with one short message."""
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL_ID, "messages": messages, "seed": 7, "max_tokens": 8, **more}


def completion(prompt: Any = "Once upon a time", **more: Any) -> Body:
    """A completion request with a short prompt."""
    return {"model": MODEL_ID, "prompt": prompt, "seed": 7, "max_tokens": 8, **more}


def tool(name: str, parameters: Body | None = None, **more: Any) -> Body:
    """A tool of a request."""
    function: Body = {"name": name, "description": f"Tells the {name}.", **more}
    return {"type": "function", "function": function | ({"parameters": parameters} if parameters else {})}


def named(name: str) -> Body:
    """The tool choice that demands a call of one tool."""
    return {"type": "function", "function": {"name": name}}


def schema_of(schema: Body, **more: Any) -> Body:
    """The response format that demands a schema."""
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}}


def strict_object(**properties: Any) -> Body:
    """The schema of an object that has these properties."""
    closed = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **closed}


CITY = strict_object(city={"enum": ["Bonn", "Köln"]}, on_the_rhine={"type": "boolean"})
PLACE = strict_object(city={"enum": ["Bonn", "Basel"]})
WEATHER = tool("weather", PLACE)
TIME = tool("time")
BONN = '{"name": "weather", "arguments": {"city": "Bonn"}}'
NOW = '{"name": "time", "arguments": {}}'
CALLED = [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
]
CONVERSATION: list[Body] = [
    {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}]},
    {"role": "user", "content": "What is it like in Bonn?"},
    {"role": "assistant", "content": None, "tool_calls": CALLED},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"sky": "grey"}'},
]


def interrupted(arguments: str) -> list[Body]:
    """A conversation with a tool call that has these arguments, which need not be JSON."""
    function = {"name": "weather", "arguments": arguments}
    called = {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "The arguments are no JSON object."}
    return [CONVERSATION[1], called, result]


def unfinished(content: Any) -> list[Body]:
    """A conversation whose final message is from the assistant."""
    return [CONVERSATION[1], {"role": "assistant", "content": content}]


CONTINUED: Body = {"continue_final_message": True, "add_generation_prompt": False}
GRAMMAR = 'root ::= "yes" | "no" | [0-9]{2}'
RHYME = "@say<<a hat, a 猫😀>>"

GOOD: dict[str, Body] = {
    "choices": chat(n=3),
    "choices, greedy": chat(n=2, temperature=0),
    "eight choices": completion(n=8, max_tokens=3),
    "choices that stop": chat(RHYME, n=2, stop=[" a", "hat"]),
    "choices with biases and a limit": completion(n=2, logit_bias={"29889": -5, "12": 3.5}, max_tokens=4),
    "prompts": completion(["Once upon", "a time"]),
    "prompts as token ids": completion([[504, 3575], [282], [504]], n=2, max_tokens=4),
    "one prompt in a list": completion(["Once upon a time"]),
    "one list of token ids in a list": completion([[504, 3575]]),
    "log probabilities": chat(RHYME, logprobs=True, max_tokens=12),
    "log probabilities of choices": chat(n=2, logprobs=True, top_logprobs=0),
    "log probabilities to a stop": chat(RHYME, logprobs=True, stop=["hat"]),
    "log probabilities that end within a character": chat("@say<<𒀀𒀀>>", logprobs=True, max_tokens=1),
    "alternatives": chat(RHYME, logprobs=True, top_logprobs=3, max_tokens=12),
    "twenty alternatives": chat(logprobs=True, top_logprobs=20, max_tokens=3),
    "log probabilities of a completion": completion(RHYME, logprobs=0, max_tokens=12),
    "alternatives of a completion": completion(RHYME, logprobs=2, max_tokens=12),
    "forbidden tokens": chat(logit_bias={str(i): -100 for i in range(0, 3000, 10)}, temperature=0),
    "a token again and again": chat(logit_bias={"504": 100}, temperature=0, max_tokens=4),
    "stop that is kept": chat(RHYME, stop=["猫", " a"], include_stop_str_in_output=True),
    "stop tokens": chat(temperature=0, stop_token_ids=[30, 216, 198, 28]),
    "echo": completion(echo=True),
    "echo of prompts": completion(["Once upon", "a time"], n=2, echo=True, max_tokens=3),
    "echo of token ids": completion([504, 3575, 282], echo=True),
    "text format": chat(response_format={"type": "text"}),
    "any object": chat(
        '@say<<{"a": [1, {"b": null}]}>>', response_format={"type": "json_object"}, max_tokens=16
    ),
    "a schema": chat(response_format=schema_of(CITY, strict=True), max_tokens=40),
    "a schema for choices": chat(n=3, response_format=schema_of(CITY), max_tokens=40, temperature=1.5),
    "a schema with log probabilities": chat(response_format=schema_of(CITY), logprobs=True, max_tokens=40),
    "a schema cut short": chat(response_format=schema_of(CITY), max_tokens=4),
    "a schema for prompts": completion(["Bonn?", "Köln?"], guided_json=CITY, max_tokens=40),
    "a schema as text": completion(guided_json='{"enum": ["ü", {"k": [1, 2]}]}', max_tokens=24),
    "a schema with white space": chat(
        '@say<<{\n\t"city" : "Bonn" ,\n\t"on_the_rhine": true\n}>>',
        response_format=schema_of(CITY),
        whitespace="flexible",
        max_tokens=40,
    ),
    "a compact schema": chat(response_format=schema_of(CITY), whitespace="compact", max_tokens=40),
    "any object with white space": completion(
        response_format={"type": "json_object"}, whitespace="flexible", max_tokens=40
    ),
    "white space of an expression": completion(guided_regex="[ab]", whitespace="flexible"),
    "white space of calls or JSON": chat(
        response_format=schema_of(CITY), whitespace="flexible", tools=[WEATHER], max_tokens=60
    ),
    "white space of demanded calls": chat(
        response_format=schema_of(CITY),
        whitespace="flexible",
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=60,
    ),
    "a regular expression": completion(guided_regex=r"(Bonn|Basel), [0-9]{4}|ß+", max_tokens=24),
    "a regular expression as format": chat(response_format={"type": "regex", "regex": "[ab]{2,5}!"}),
    "a grammar": completion(guided_grammar=GRAMMAR),
    "a grammar as format": chat("@say<<no>>", response_format={"type": "grammar", "grammar": GRAMMAR}),
    "EBNF": chat("@say<<42>>", response_format={"type": "ebnf", "ebnf": GRAMMAR}, n=2),
    "tools that may be called": chat(f"@say<<{BONN}>>", tools=[WEATHER, TIME], max_tokens=40),
    "two calls": chat(f"@say<<{BONN}\n{NOW}>>", tools=[WEATHER, TIME], max_tokens=60),
    "one call at a time": chat(
        f"@say<<{BONN}\n{NOW}>>", tools=[WEATHER, TIME], parallel_tool_calls=False, max_tokens=60
    ),
    "words before a call": chat(f"@say<<Let me see.\n{BONN}>>", tools=[WEATHER], max_tokens=60),
    "tools that are not called": chat(RHYME, tools=[WEATHER], tool_choice="auto", max_tokens=12),
    "tools that must not be called": chat(
        f"@say<<{BONN}>>", tools=[WEATHER], tool_choice="none", max_tokens=40
    ),
    "a call that is demanded": chat(
        tools=[WEATHER, TIME], tool_choice="required", parallel_tool_calls=False, max_tokens=60
    ),
    "calls in every choice": chat(
        tools=[WEATHER], tool_choice=named("weather"), n=2, max_tokens=60, temperature=1.5
    ),
    "the call of one tool": chat(tools=[WEATHER, TIME], tool_choice=named("time"), max_tokens=40),
    "a call of a strict tool": chat(
        tools=[tool("weather", PLACE, strict=True)], tool_choice="required", max_tokens=60, logprobs=True
    ),
    "a call cut short": chat(tools=[WEATHER], tool_choice="required", max_tokens=9),
    "a call cut before its name": chat(tools=[WEATHER], tool_choice=named("weather"), max_tokens=3, n=2),
    "a stop sequence in a call that is demanded": chat(
        tools=[TIME], tool_choice=named("time"), stop=['"', "time", "}"], max_tokens=40, logprobs=True
    ),
    "a call that may be made, cut short": chat(f"@say<<{BONN}>>", tools=[WEATHER], max_tokens=6),
    "a stop sequence in a call that may be made": chat(
        f"@say<<{BONN}>>", tools=[WEATHER], stop=["Bonn"], max_tokens=40
    ),
    "calls or a schema": chat(tools=[WEATHER], response_format=schema_of(CITY), max_tokens=60),
    "a conversation with tools": chat(messages=CONVERSATION, tools=[WEATHER]),
    "a conversation about tools that are gone": chat(messages=CONVERSATION),
    "a conversation with a call that was cut short": chat(
        messages=interrupted('{"city": "Bon'), tools=[WEATHER]
    ),
    "a conversation with arguments that are no object": chat(messages=interrupted("[1"), max_tokens=2),
    "a final message that is continued": chat(messages=unfinished("The Rhine flows through"), **CONTINUED),
    "a final message of parts that is continued": chat(
        messages=unfinished([{"type": "text", "text": "It "}, {"type": "text", "text": "is "}]),
        continue_final_message=True,
        tools=[WEATHER],
    ),
    "no header of the next turn": chat(add_generation_prompt=False),
    "the other name of the limit": chat(max_tokens=5, max_completion_tokens=5),
    "what has no effect": chat(
        parallel_tool_calls=True,
        tool_choice="auto",
        include_stop_str_in_output=True,
        max_tokens=2,
    ),
    "strictness without effect": chat(tools=[tool("time", strict=True)], max_tokens=2),
    "a schema beside a call that is demanded": chat(
        tools=[TIME], tool_choice=named("time"), response_format=schema_of(CITY), max_tokens=24
    ),
    "only a check": chat(validate_only=True, n=4, logit_bias={"3": 1}, tools=[WEATHER]),
    "only a check of prompts": completion(["Once", "a", "b"], validate_only=True, guided_regex="a+"),
}


SCRIPTED = frozenset(
    {
        "EBNF",
        "a call cut short",
        "a call that is demanded",
        "a call that may be made, cut short",
        "a stop sequence in a call that may be made",
        "a conversation about tools that are gone",
        "a schema beside a call that is demanded",
        "a call of a strict tool",
        "a schema for prompts",
        "a schema with log probabilities",
        "calls or a schema",
        "choices, greedy",
        "log probabilities to a stop",
        "one call at a time",
        "one list of token ids in a list",
        "strictness without effect",
        "tools that are not called",
        "tools that may be called",
        "two calls",
        "words before a call",
    }
)
"""The requests of GOOD that are sent only to engines whose output a test can script. A real model would
take seconds for each, and other requests cover the same code with it."""


EXPECTED_ANSWERS: dict[str, tuple[str, str, str, list[tuple[str, str]]]] = {
    "choices that stop": ("a ", "stop", "stop_sequence", []),
    "stop that is kept": ("a hat, a", "stop", "stop_sequence", []),
    "log probabilities that end within a character": ("", "length", "max_tokens", []),
    "any object": ('{"a": [1, {"b": null}]}', "stop", "end_of_sequence", []),
    "a grammar as format": ("no", "stop", "end_of_sequence", []),
    "EBNF": ("42", "stop", "end_of_sequence", []),
    "tools that may be called": ("", "tool_calls", "end_of_sequence", [("weather", '{"city": "Bonn"}')]),
    "two calls": (
        "",
        "tool_calls",
        "end_of_sequence",
        [("weather", '{"city": "Bonn"}'), ("time", "{}")],
    ),
    "one call at a time": ("", "tool_calls", "tool_calls", [("weather", '{"city": "Bonn"}')]),
    "words before a call": (
        "Let me see.\n",
        "tool_calls",
        "end_of_sequence",
        [("weather", '{"city": "Bonn"}')],
    ),
    "tools that are not called": ("a hat, a 猫😀", "stop", "end_of_sequence", []),
    "tools that must not be called": (BONN, "stop", "end_of_sequence", []),
    "a call cut before its name": ("", "length", "max_tokens", []),
    "a stop sequence in a call that is demanded": ("", "tool_calls", "tool_calls", [("time", "{}")]),
    "a call that may be made, cut short": ("", "length", "max_tokens", []),
    "a stop sequence in a call that may be made": (
        "",
        "length",
        "stop_sequence",
        [("weather", '{"city": "')],
    ),
    "the call of one tool": ("", "tool_calls", "tool_calls", [("time", "{}")]),
}
"""The expected answer of an engine whose output is scripted: text, finish reason, cause, and calls."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A request that is refused."""

    body: Body
    param: str
    code: str = "invalid_value"
    message: str = ""
    """A part of the expected message."""
    rest_param: str = ""
    """The parameter's name over REST, where it differs from gRPC's."""


def bad_schema(schema: Body, message: str) -> Bad:
    """A request with an invalid schema, whose error names the place in the schema."""
    return Bad(chat(response_format=schema_of(schema)), SCHEMA, message=message)


def bad_tools(tools: Sequence[Body], param: str, **more: Any) -> Bad:
    """A request with invalid tools."""
    return Bad(chat(tools=list(tools), **more), param)


def bad_turn(param: str, code: str = "invalid_value", **turn: Any) -> Bad:
    """A request whose second message is invalid."""
    turns = [{"role": "user", "content": "hi"}, {"content": "hi", **turn}]
    return Bad(chat(messages=turns), f"messages[1].{param}", code)


def calling(name: str = "weather", arguments: str = "{}") -> list[Body]:
    """The tool calls of a message."""
    return [{"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}]


SCHEMA = "response_format.json_schema.schema"
_UNKNOWN = {"type": "array", "unevaluatedItems": False}
_NO_ENUM = strict_object(a=strict_object(b={"enum": []}))
_CROSSED = strict_object(a={"type": "array", "items": {}, "minItems": 3, "maxItems": 2})
_BAD_PATTERN = strict_object(é={"type": "string", "pattern": "^(a$"})

BAD: dict[str, Bad] = {
    "no choice": Bad(chat(n=0), "n", message="[1, 8]"),
    "nine choices": Bad(chat(n=9), "n"),
    "many choices of many prompts": Bad(completion(["x"] * 5, n=8), "n", message="32"),
    "many prompts": Bad(completion(["x"] * 17), "prompt"),
    "an empty prompt of several": Bad(completion(["x", ""]), "prompt[1]"),
    "a prompt of several outside the vocabulary": Bad(completion([[1], [2, 200_000]]), "prompt[1][1]"),
    "alternatives alone": Bad(chat(top_logprobs=2), "top_logprobs"),
    "many alternatives": Bad(chat(logprobs=True, top_logprobs=21), "top_logprobs", message="[0, 20]"),
    "fewer alternatives than none": Bad(chat(logprobs=True, top_logprobs=-1), "top_logprobs"),
    "many alternatives of a completion": Bad(completion(logprobs=21), "top_logprobs", rest_param="logprobs"),
    "a high bias": Bad(chat(logit_bias={"7": 100.5}), "logit_bias[7]", message="[-100, 100]"),
    "a low bias": Bad(chat(logit_bias={"7": -101}), "logit_bias[7]"),
    "many biases": Bad(chat(logit_bias={str(i): 1 for i in range(301)}), "logit_bias", message="300"),
    "a bias outside the vocabulary": Bad(chat(logit_bias={"200000": 1}), "logit_bias"),
    "echo with log probabilities": Bad(completion(echo=True, logprobs=0), "echo", "unsupported_parameter"),
    "a constraint without an end": Bad(
        chat(response_format={"type": "json_object"}, ignore_eos=True), "ignore_eos"
    ),
    "a keyword that is not supported": bad_schema(strict_object(a=_UNKNOWN), "$.properties.a"),
    "an empty enum": bad_schema(_NO_ENUM, "$.properties.a.properties.b"),
    "bounds that cross": bad_schema(_CROSSED, "$.properties.a"),
    "a bad pattern": bad_schema(_BAD_PATTERN, "pattern"),
    "a reference to nothing": bad_schema(strict_object(a={"$ref": "#/$defs/no"}), "$.properties.a"),
    "a type that is none": bad_schema({"type": "text"}, "$.type"),
    "a schema without an instance": bad_schema({"type": "string", "enum": [1]}, ""),
    "a large schema": bad_schema({"enum": ["x" * 530_000]}, "524288"),
    "a schema by its other name": Bad(chat(guided_json={"type": 3}), SCHEMA, rest_param="guided_json"),
    "a schema that is no JSON": Bad(chat(guided_json="{"), SCHEMA, rest_param="guided_json"),
    "an empty expression": Bad(chat(guided_regex=""), "guided_regex"),
    "an open group": Bad(chat(guided_regex="a(b"), "guided_regex", message="position"),
    "a reference back": Bad(chat(guided_regex=r"(a)\1"), "guided_regex", message="position"),
    "a long repetition": Bad(chat(guided_regex="a{70000}"), "guided_regex", message="position"),
    "a long expression": Bad(chat(guided_regex="a" * 530_000), "guided_regex", message="524288"),
    "an expression as format": Bad(
        chat(response_format={"type": "regex", "regex": "["}),
        "guided_regex",
        rest_param="response_format.regex",
    ),
    "a grammar without a root": Bad(chat(guided_grammar='start ::= "a"'), "guided_grammar", message="root"),
    "a grammar with a hole": Bad(
        chat(guided_grammar='root ::= "a" b'), "guided_grammar", message="column 14"
    ),
    "a grammar that is none": Bad(chat(guided_grammar='root ::= "a'), "guided_grammar", message="line 1"),
    "a grammar without an end": Bad(chat(guided_grammar='root ::= root "a"'), "guided_grammar"),
    "EBNF that is none": Bad(
        chat(response_format={"type": "ebnf", "ebnf": "?"}),
        "guided_grammar",
        rest_param="response_format.ebnf",
    ),
    "an expression beside tools": Bad(
        chat(guided_regex="a", tools=[WEATHER]), "guided_regex", "unsupported_parameter"
    ),
    "a tool nobody gave": bad_tools([WEATHER], "tool_choice", tool_choice=named("time")),
    "a demand without tools": bad_tools([], "tool_choice", tool_choice="required"),
    "the name of no tool": bad_tools([], "tool_choice", tool_choice=named("weather")),
    "a tool with a bad name": bad_tools([TIME, tool("a b")], "tools[1].function.name"),
    "two tools of a name": bad_tools([TIME, TIME], "tools[1].function.name"),
    "many tools": bad_tools([tool(f"t{i}") for i in range(129)], "tools"),
    "a strict tool that cannot be": bad_tools(
        [TIME, tool("t", strict_object(a=_UNKNOWN), strict=True)],
        "tools[1].function.parameters",
        tool_choice="required",
    ),
    "a result without its call": bad_turn("tool_call_id", "missing_required_parameter", role="tool"),
    "a result of a user": bad_turn("tool_call_id", role="user", tool_call_id="c"),
    "calls of a user": bad_turn("tool_calls", role="user", tool_calls=calling()),
    "a call of no name": bad_turn(
        "tool_calls[0].function.name", role="assistant", tool_calls=calling(name="a b")
    ),
    "a final message that is continued and followed": Bad(
        chat(messages=unfinished("So"), continue_final_message=True, add_generation_prompt=True),
        "continue_final_message",
        message="add_generation_prompt",
    ),
    "calls that are continued": Bad(
        chat(messages=CONVERSATION[:3], continue_final_message=True), "continue_final_message"
    ),
    "a check of what is wrong": Bad(chat(validate_only=True, n=9), "n"),
    "a check of a constraint that is wrong": Bad(chat(validate_only=True, guided_regex="a("), "guided_regex"),
}

BAD_IN_REST_ONLY: dict[str, Bad] = {
    "two constraints": Bad(chat(guided_regex="a", response_format={"type": "json_object"}), "guided_regex"),
    "three constraints": Bad(chat(guided_json={}, guided_regex="a", guided_grammar=GRAMMAR), "guided_regex"),
    "a format without its schema": Bad(
        chat(response_format={"type": "json_schema"}),
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    "two limits": Bad(chat(max_tokens=3, max_completion_tokens=4), "max_completion_tokens"),
    "a bias of a token that is no number": Bad(chat(logit_bias={"a": 1}), "logit_bias"),
    "a choice that is none": Bad(chat(tools=[TIME], tool_choice="any"), "tool_choice"),
}
"""Requests that the gRPC protocol cannot express."""
