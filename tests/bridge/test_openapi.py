"""The description is the truth: what it says is compared with what is done."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_service import parse
from rest_bridge.app import create_app
from rest_bridge.schemas.chat import ChatCompletionRequest
from rest_bridge.schemas.completions import CompletionRequest
from tests.bridge.running import bridge_config


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(bridge_config("127.0.0.1:1")).openapi()


KNOBS = [
    parse.TEMPERATURE,
    parse.TOP_P,
    parse.TOP_K,
    parse.MIN_P,
    parse.FREQUENCY_PENALTY,
    parse.PRESENCE_PENALTY,
    parse.REPETITION_PENALTY,
    parse.MAX_TOKENS,
]


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
@pytest.mark.parametrize("schema", ["ChatCompletionRequest", "CompletionRequest"])
def test_ranges_and_defaults_are_the_services_own(
    document: dict[str, Any], schema: str, knob: parse.Knob
) -> None:
    """The service checks them, the bridge only writes them down: both say the same."""
    described = document["components"]["schemas"][schema]["properties"][knob.name]
    low = "exclusiveMinimum" if knob.excludes_low else "minimum"

    assert (described[low], described["maximum"], described["default"]) == (
        knob.low,
        knob.high,
        knob.default,
    )


def test_limits_of_lists_and_texts_are_the_services_own(document: dict[str, Any]) -> None:
    """The same for what is no number."""
    described = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    stop = next(form for form in described["stop"]["anyOf"] if form["type"] == "array")

    assert stop["maxItems"] == parse.MAX_STOPS
    assert described["stop_token_ids"]["maxItems"] == parse.MAX_STOP_TOKEN_IDS
    assert described["user"]["maxLength"] == parse.MAX_USER_LENGTH


@pytest.mark.parametrize("schema", [ChatCompletionRequest, CompletionRequest])
def test_every_parameter_is_described(document: dict[str, Any], schema: type[Any]) -> None:
    """In words; and nothing that is not taken."""
    described = document["components"]["schemas"][schema.__name__]["properties"]

    assert set(described) == set(schema.model_fields)
    assert all(field.get("description") for field in described.values())


def test_every_route_is_described(document: dict[str, Any]) -> None:
    """All that answer, with their bodies and errors."""
    assert {(path, method) for path, item in document["paths"].items() for method in item} == {
        ("/v1/chat/completions", "post"),
        ("/v1/completions", "post"),
        ("/v1/completions/stream", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{model}", "get"),
        ("/health", "get"),
        ("/health/live", "get"),
        ("/health/ready", "get"),
    }
    for path in ("/v1/chat/completions", "/v1/completions"):
        operation = document["paths"][path]["post"]
        assert set(operation["responses"]) == {
            "200",
            "400",
            "401",
            "403",
            "404",
            "413",
            "429",
            "503",
            "504",
        }
        assert "422" not in operation["responses"]
        assert operation["requestBody"]["required"]


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    """No schema is named that is not there."""
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}

    assert names
    assert names <= set(document["components"]["schemas"])
    assert "$defs" not in text
