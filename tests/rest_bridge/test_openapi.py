"""The OpenAPI description is compared with the behaviour of the servers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from inference_service.request import generate, options, prompt
from lodestream_common.parameters import Parameter
from rest_bridge.app import create_app
from rest_bridge.openai import inputs
from rest_bridge.openai.requests import ChatCompletionRequest, CompletionRequest
from tests.rest_bridge.running import bridge_config


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(bridge_config("127.0.0.1:1")).openapi()


NUMBERS = [
    options.TEMPERATURE,
    options.TOP_P,
    options.TOP_K,
    options.MIN_P,
    options.FREQUENCY_PENALTY,
    options.PRESENCE_PENALTY,
    options.REPETITION_PENALTY,
    options.CHOICES,
]


@pytest.mark.parametrize("parameter", NUMBERS, ids=lambda parameter: parameter.name)
@pytest.mark.parametrize("schema", ["ChatCompletionRequest", "CompletionRequest"])
def test_ranges_and_defaults_equal_the_service_s(
    document: dict[str, Any], schema: str, parameter: Parameter
) -> None:
    """The service checks them, and the bridge only documents them."""
    described = document["components"]["schemas"][schema]["properties"][parameter.name]
    low = "exclusiveMinimum" if parameter.excludes_low else "minimum"

    assert (described[low], described["maximum"], described["default"]) == (
        parameter.low,
        parameter.high,
        parameter.default,
    )


def test_the_limit_of_tokens_is_not_in_the_description(document: dict[str, Any]) -> None:
    """The operator of the service sets it, so the description says where to find it."""
    for name in ("max_tokens", "max_completion_tokens"):
        described = document["components"]["schemas"]["ChatCompletionRequest"]["properties"][name]
        assert described["minimum"] == 1
        assert not {"maximum", "default"} & set(described)
    served = document["components"]["schemas"]["Model"]["properties"]
    assert {"max_tokens_limit", "default_max_tokens"} <= set(served)


def test_limits_of_lists_and_texts_equal_the_service_s(document: dict[str, Any]) -> None:
    """The description has the same lengths and counts."""
    described = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    stop = next(form for form in described["stop"]["anyOf"] if form["type"] == "array")
    biases = described["logit_bias"]["anyOf"][0]

    assert stop["maxItems"] == options.STOP.max_items == 4
    assert described["stop_token_ids"]["maxItems"] == options.STOP_TOKEN_IDS.max_items == 64
    assert described["user"]["maxLength"] == generate.USER.max_length == 256
    assert described["tools"]["maxItems"] == prompt.TOOLS.max_items == 128
    assert biases["maxProperties"] == options.LOGIT_BIAS.max_items == 300
    bounds = biases["additionalProperties"]
    assert (bounds["minimum"], bounds["maximum"]) == (options.LOGIT_BIAS.low, options.LOGIT_BIAS.high)


def test_the_number_of_alternatives_is_limited_as_in_the_service(document: dict[str, Any]) -> None:
    """Both names have the limit."""
    schemas = document["components"]["schemas"]
    chat = schemas["ChatCompletionRequest"]["properties"]["top_logprobs"]
    text = schemas["CompletionRequest"]["properties"]["logprobs"]
    parameter = options.TOP_LOGPROBS

    assert (chat["minimum"], chat["maximum"], chat["default"]) == (
        parameter.low,
        parameter.high,
        parameter.default,
    )
    assert (text["minimum"], text["maximum"]) == (parameter.low, parameter.high)


def test_prompts_are_limited_as_in_the_service() -> None:
    """The bridge refuses longer arrays itself, before any other work."""
    assert inputs.MAX_PROMPTS == prompt.BATCH.max_items == 16


@pytest.mark.parametrize("schema", [ChatCompletionRequest, CompletionRequest])
def test_every_parameter_is_described(document: dict[str, Any], schema: type[Any]) -> None:
    """Each has a text, and no other parameter is described."""
    described = document["components"]["schemas"][schema.__name__]["properties"]

    assert set(described) == set(schema.model_fields)
    assert all(field.get("description") for field in described.values())


def test_every_route_has_examples_that_its_schemas_accept(document: dict[str, Any]) -> None:
    """There is one of the body, and one of each form of the response."""
    for path, item in document["paths"].items():
        for operation in item.values():
            contents = [operation["responses"]["200"], *filter(None, [operation.get("requestBody")])]
            for media_type, content in (pair for one in contents for pair in one["content"].items()):
                assert "example" in content, f"{path}: {media_type}"
                if media_type == "application/json":
                    schema = {**content["schema"], "components": document["components"]}
                    Draft202012Validator(schema).validate(content["example"])


def test_every_route_is_described(document: dict[str, Any]) -> None:
    """Every route is there with its bodies and errors."""
    assert {(path, method) for path, item in document["paths"].items() for method in item} == {
        ("/v1/chat/completions", "post"),
        ("/v1/completions", "post"),
        ("/v1/completions/stream", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{model}", "get"),
        ("/v1/usage/{request_id}", "get"),
        ("/health", "get"),
        ("/metrics", "get"),
        ("/health/live", "get"),
        ("/health/ready", "get"),
    }
    for path in ("/v1/chat/completions", "/v1/completions"):
        operation = document["paths"][path]["post"]
        refusals = {"400", "401", "403", "404", "408", "413", "415", "429", "500", "503", "504"}
        assert set(operation["responses"]) == {"200", *refusals}
        assert "x-ignored-parameters" in operation["responses"]["200"]["headers"]
        forms = operation["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
        assert {form["$ref"].rpartition("/")[2] for form in forms} > {"Validation"}
        assert operation["requestBody"]["required"]


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    """Every named schema exists."""
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}

    assert names
    assert names <= set(document["components"]["schemas"])
    assert "$defs" not in text


def test_the_description_is_valid_openapi(document: dict[str, Any]) -> None:
    """An external validator checks the version of OpenAPI that it names."""
    assert document["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_route_lists_its_errors(document: dict[str, Any]) -> None:
    """All list internal errors, none lists the framework's 422, and all use the same error body."""
    for item in document["paths"].values():
        for operation in item.values():
            refusals = {status: reply for status, reply in operation["responses"].items() if status != "200"}
            assert "500" in refusals
            assert "422" not in refusals
            for reply in refusals.values():
                schema = reply["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorReply"}
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("path", "chunk"),
    [
        ("/v1/chat/completions", "ChatCompletionChunk"),
        ("/v1/completions", "CompletionChunk"),
        ("/v1/completions/stream", "CompletionChunk"),
    ],
)
async def test_events_of_a_stream_follow_the_schema(
    document: dict[str, Any], http: httpx.AsyncClient, path: str, chunk: str
) -> None:
    """The events are chunks and the end mark; the schema allows nothing else."""
    operation = document["paths"][path]["post"]
    schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert f"#/components/schemas/{chunk}" in {form.get("$ref") for form in schema["anyOf"]}
    validator = Draft202012Validator({**schema, "components": document["components"]})
    example = operation["requestBody"]["content"]["application/json"]["example"]
    text = (await http.post(path, json={**example, "model": "m", "stream": True})).text
    events = [part.removeprefix("data: ") for part in text.split("\n\n") if part.startswith("data: ")]

    assert len(events) > 2
    assert events[-1] == "[DONE]"
    for event in events[:-1]:
        validator.validate(json.loads(event))
    assert validator.is_valid("[DONE]")
    assert not validator.is_valid("[done]")
    assert not validator.is_valid({"id": 1})
