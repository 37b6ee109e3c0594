"""The API's description of itself. Bodies are read by hand, so their schemas are added by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rest_bridge.schemas.chat import ChatCompletionChunk, ChatCompletionRequest
from rest_bridge.schemas.completions import CompletionChunk, CompletionRequest
from rest_bridge.schemas.replies import ErrorReply, Validation

Extra = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

_PREFIX = "#/components/schemas/"
_BODIES = (ChatCompletionRequest, CompletionRequest)
_CHUNKS = (ChatCompletionChunk, CompletionChunk)
_TIMES = {
    "x-queue-ms": "Milliseconds from arrival at the service to admission.",
    "x-prefill-ms": "Milliseconds from admission to the first token.",
    "x-decode-ms": "Milliseconds from the first token to the last.",
    "x-bridge-ms": "Milliseconds of everything else.",
    "x-batch-size": "Generations that ran when this one began, itself included.",
    "x-cached-tokens": "Prompt tokens that did not have to be computed again.",
}
"""Headers of whole replies; streams say the same in their last chunk, with the token counts."""
_KEY = "ApiKey"

SECURED: Extra = {"security": [{_KEY: []}, {}]}
"""Of routes that need a key where there are keys."""


def _errors(**causes: str) -> Responses:
    return {int(status[1:]): {"model": ErrorReply, "description": cause} for status, cause in causes.items()}


_KEY_ERRORS = _errors(_401="No API key, or a bad one.", _503="The service takes no requests now.")
NOT_READY_ERROR = _KEY_ERRORS[503]
MODEL_ERRORS = {**_KEY_ERRORS, **_errors(_404="No such model.")}
GENERATION_ERRORS = {
    **MODEL_ERRORS,
    **_errors(
        _400="A parameter is wrong, or the prompt does not fit the model.",
        _403="The key's level does not allow this.",
        _413="The body is too large.",
        _429="The key's quota is spent, or the queue is full.",
        _504="The deadline passed before the first token.",
    ),
}


def takes(body: type[BaseModel]) -> Extra:
    """Describe the body and the headers of a route that generates."""
    schema = {"schema": {"$ref": _PREFIX + body.__name__}}
    return {
        **SECURED,
        "requestBody": {"required": True, "content": {"application/json": schema}},
        "parameters": [
            _header("x-request-id", "Your own id of the request, for the logs.", {"type": "string"}),
            _header(
                "x-request-timeout",
                "Deadline in seconds. After the first token it ends the text early, before that the request.",
                {"type": "number", "exclusiveMinimum": 0, "maximum": 3600},
            ),
        ],
    }


def event_stream(whole: type[BaseModel] | None, chunk: type[BaseModel]) -> dict[str, Any]:
    """Describe a reply that is `whole`, or comes as events of `chunk` each."""
    described: dict[str, Any] = {
        "description": "The answer; with `validate_only` what it would be made with.",
        "content": {"text/event-stream": {"itemSchema": {"$ref": _PREFIX + chunk.__name__}}},
        "headers": _headers(whole is not None),
    }
    return {**described, "model": Validation if whole is None else whole | Validation}


def _headers(with_times: bool) -> Extra:
    names = {"x-ignored-parameters": "Names of what the request asked for to no effect.", **_TIMES}
    told = names if with_times else {"x-ignored-parameters": names["x-ignored-parameters"]}
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in told.items()}


def _header(name: str, description: str, schema: Extra) -> Extra:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


class DescribedApp(FastAPI):
    """A FastAPI app that also describes what its routes read and stream by hand."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(_schemas())
            components["securitySchemes"] = {
                _KEY: {"type": "http", "scheme": "bearer", "bearerFormat": "pg_..."}
            }
        assert self.openapi_schema is not None  # noqa: S101  super().openapi() keeps what it made
        return self.openapi_schema


def _schemas() -> dict[str, Any]:
    wanted = [(model, "validation") for model in (*_BODIES, *_CHUNKS)]
    _, found = models_json_schema(wanted, ref_template=_PREFIX + "{model}")  # type: ignore[arg-type]
    definitions: dict[str, Any] = found["$defs"]
    return definitions
