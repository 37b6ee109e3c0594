"""Samples of parameters that both endpoints have."""

from __future__ import annotations

from rest_bridge.openai import policy
from tests.support.parameters.sample import ALIAS, Sample, sample

_SCHEMA = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}
_GBNF = 'root ::= "yes" | "no"'


def _format(kind: str, **more: object) -> dict[str, object]:
    return {"response_format": {"type": kind, **more}}


def _json_schema(**more: object) -> dict[str, object]:
    return _format("json_schema", json_schema={"schema": _SCHEMA, **more})


_GENERATION = (
    sample("model", {"model": ALIAS}),
    sample("max_tokens", {"max_tokens": 1}),
    sample("max_completion_tokens", {"max_tokens": None, "max_completion_tokens": 1}),
    sample("temperature", {"temperature": 0.5}),
    sample("top_p", {"top_p": 0.5}),
    sample("top_k", {"top_k": 40}),
    sample("min_p", {"min_p": 0.1}),
    sample("frequency_penalty", {"frequency_penalty": 0.5}),
    sample("presence_penalty", {"presence_penalty": 0.5}),
    sample("repetition_penalty", {"repetition_penalty": 1.2}),
    sample("seed", {"seed": 7}),
    sample("logit_bias", {"logit_bias": {"5": -100}}),
    sample("n", {"n": 2}),
    sample("stop", {"stop": "x"}, {"stop": ["x", "y"]}),
    sample("include_stop_str_in_output", {"include_stop_str_in_output": True}, beside={"stop": "x"}),
    sample("include_stop_str_in_output", {"include_stop_str_in_output": True}, when="without `stop`"),
    sample("stop_token_ids", {"stop_token_ids": [5]}),
    sample("ignore_eos", {"ignore_eos": True}),
    sample("user", {"user": "u"}),
    sample("return_token_ids", {"return_token_ids": True}, by_grpc="always given"),
    sample("validate_only", {"validate_only": True}),
)

_STREAMING = (
    sample("stream", {"stream": True}, by_grpc="`GenerateStream`"),
    sample(
        "stream",
        {"stream": True},
        beside={"validate_only": True},
        when="with `validate_only`",
        by_grpc="`GenerateStream`",
    ),
    sample("stream_options", {"stream": True, "stream_options": {}}, by_grpc="always given"),
    sample("stream_options", {"stream_options": {}}, when="without `stream`", by_grpc="always given"),
    sample(
        "stream_options.include_usage",
        {"stream": True, "stream_options": {"include_usage": True}},
        by_grpc="always given",
    ),
)

_OTHER_TYPE = "with another type"
_CONSTRAINTS = (
    sample("response_format", _format("text"), when="of the type `text`"),
    sample("response_format", _format("json_object"), when="of any other type", by_grpc="`constraint`"),
    sample("response_format.type", _format("json_object")),
    sample("response_format.json_schema", _json_schema()),
    sample("response_format.json_schema", _format("text", json_schema={"schema": {}}), when=_OTHER_TYPE),
    sample("response_format.json_schema.name", _json_schema(name="x"), beside=_json_schema()),
    sample("response_format.json_schema.description", _json_schema(description="d"), beside=_json_schema()),
    sample("response_format.json_schema.schema", _json_schema(schema={"const": 1}), beside=_json_schema()),
    sample("response_format.json_schema.strict", _json_schema(strict=True), beside=_json_schema()),
    sample("response_format.regex", _format("regex", regex="a|b")),
    sample("response_format.regex", _format("text", regex="a"), when=_OTHER_TYPE),
    sample("response_format.grammar", _format("grammar", grammar=_GBNF)),
    sample("response_format.grammar", _format("text", grammar=_GBNF), when=_OTHER_TYPE),
    sample("response_format.ebnf", _format("ebnf", ebnf=_GBNF)),
    sample("response_format.ebnf", _format("text", ebnf=_GBNF), when=_OTHER_TYPE),
    sample("guided_json", {"guided_json": _SCHEMA}, {"guided_json": '{"enum": [1]}'}),
    sample("guided_regex", {"guided_regex": "a|b"}),
    sample("guided_grammar", {"guided_grammar": _GBNF}),
    sample(
        "whitespace",
        {"whitespace": "flexible"},
        beside=_format("json_object"),
        when="where JSON is asked for",
    ),
    sample("whitespace", {"whitespace": "flexible"}, beside={"guided_regex": "a"}, when="otherwise"),
)

_REFUSED = tuple(sample(name) for name in sorted(policy.EVERYWHERE))

_WITHOUT_EFFECT = (
    sample("enable_thinking"),
    sample("metadata"),
    sample("prediction"),
    sample("prompt_cache_key"),
    sample("prompt_cache_options"),
    sample("prompt_cache_retention"),
    sample("reasoning"),
    sample("reasoning_effort"),
    sample("safety_identifier"),
    sample("service_tier"),
    sample("store"),
    sample("verbosity"),
)

SHARED: tuple[Sample, ...] = (*_GENERATION, *_STREAMING, *_CONSTRAINTS, *_REFUSED, *_WITHOUT_EFFECT)
