"""The OpenAPI document, and the page that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from lodestream_common.pacing import HIGHEST_INTERVAL, INTERVAL_NAME
from rest_bridge.openai.requests import ChatCompletionRequest, CompletionRequest
from rest_bridge.openai.response_schemas import ChatCompletionChunk, CompletionChunk, ErrorReply, Validation

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
    "x-batch-size": "Generations that ran when this one started, itself included.",
    "x-cached-tokens": "Prompt tokens that did not have to be computed again.",
}
"""Headers of whole responses; a stream has the same facts in its last chunk, beside the token counts."""
_KEY = "ApiKey"

_KEY_OR_NONE: Extra = {"security": [{_KEY: []}, {}]}
_STREAMS = (
    "Server-sent events. The data of an event is a chunk, or an error, which ends the stream, or the text "
    "`[DONE]`, which ends a stream without an error. Comment lines keep a silent stream alive, also before "
    "its first output: a failure after the first comment line or event is an event, not a status."
)
_STREAM_EXAMPLE = """: keep-alive

data: {"id":"…","object":"…","created":1767225600,"model":"…","choices":[…]}

data: [DONE]

"""


def _errors(**causes: str) -> Responses:
    return {int(status[1:]): {"model": ErrorReply, "description": cause} for status, cause in causes.items()}


_COMMON_ERRORS = _errors(
    _400="The request is malformed, or a parameter of it is wrong.",
    _403="The key's level does not allow this; or, without keys, the host or the origin is not allowed.",
    _408="The request did not arrive in time.",
    _500="An internal error; it is logged under the reply's x-request-id.",
)
_NOT_READY_ERROR = _errors(_503="The service accepts no requests now.")
_MODEL_ERRORS = _errors(
    _401="No API key, or a bad one.",
    _404="No such model.",
    _429="The key's quota is spent, or the queue is full.",
    _504="The deadline passed before the first token, or the response was not read in time.",
)
PROBE_ERRORS = _COMMON_ERRORS
KEY_ERRORS = {**_COMMON_ERRORS, **_errors(_401="No API key, or a bad one.")}
READY_ERRORS = {**_COMMON_ERRORS, **_NOT_READY_ERROR}
MODEL_ERRORS = {**_COMMON_ERRORS, **_MODEL_ERRORS, **_NOT_READY_ERROR}
USAGE_ERRORS = {
    **MODEL_ERRORS,
    **_errors(_404="The key made no request with this id, or its receipt was not kept."),
}
GENERATION_ERRORS = {
    **MODEL_ERRORS,
    **_errors(
        _400="A parameter is wrong, or the prompt does not fit the model.",
        _413="The body is too large.",
        _415="The content-encoding is not supported; gzip and zstd are.",
    ),
}


def generation_body(body: type[BaseModel], example: Extra) -> Extra:
    """Describe the body and the headers of a route that generates."""
    content = {"schema": {"$ref": _PREFIX + body.__name__}, "example": example}
    coding = _header(
        "content-encoding",
        "The coding of the body.",
        {"type": "string", "enum": ["gzip", "zstd", "identity"]},
    )
    return {
        **SECURED,
        "requestBody": {"required": True, "content": {"application/json": content}},
        "parameters": [*SECURED["parameters"], coding, _INTERVAL],
    }


def event_stream(whole: type[BaseModel] | None, chunk: type[BaseModel]) -> dict[str, Any]:
    """Describe a response that is `whole`, or a stream of events with a `chunk` each."""
    described: dict[str, Any] = {
        "description": "The answer; with `validate_only` the effective parameters of the request.",
        "content": {"text/event-stream": {"schema": _event(chunk), "example": _STREAM_EXAMPLE}},
        "headers": _headers(whole is not None),
    }
    return {**described, "model": Validation if whole is None else whole | Validation}


def _event(chunk: type[BaseModel]) -> Extra:
    forms = [{"$ref": _PREFIX + model.__name__} for model in (chunk, ErrorReply)]
    return {"description": _STREAMS, "anyOf": [*forms, {"const": "[DONE]"}]}


def _headers(with_times: bool) -> Extra:
    names = {"x-ignored-parameters": "Names of the request's parameters without effect.", **_TIMES}
    described = names if with_times else {"x-ignored-parameters": names["x-ignored-parameters"]}
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in described.items()}


def _header(name: str, description: str, schema: Extra) -> Extra:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


_INTERVAL = _header(
    INTERVAL_NAME,
    "Largest pause in seconds between two events of a stream on a busy server. 0: each token at once.",
    {"type": "number", "minimum": 0, "maximum": HIGHEST_INTERVAL},
)

SECURED: Extra = {
    **_KEY_OR_NONE,
    "parameters": [
        _header("x-request-id", "Your own id of the request, for the logs.", {"type": "string"}),
        _header(
            "x-request-timeout",
            "Deadline in seconds, as a decimal number without an exponent. A deadline after the first token "
            "ends the text early; one before it ends the request with an error.",
            {"type": "number", "minimum": 0.001, "maximum": 3600},
        ),
    ],
}
"""The description of routes that need a key, if the bridge has keys."""


class DescribedApp(FastAPI):
    """A FastAPI app that also describes the bodies that its routes parse and the events that they send."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; it is made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            for operation in _operations(document):
                has_quotas = not _COUNTED.isdisjoint(operation["tags"])
                _correct_responses(operation["responses"], has_quotas=has_quotas)
            _add_examples(document["paths"])
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            schemas.update(_schemas())
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            components["securitySchemes"] = {
                _KEY: {"type": "http", "scheme": "bearer", "bearerFormat": "pg_..."}
            }
        assert self.openapi_schema is not None  # noqa: S101  super().openapi() keeps what it made
        return self.openapi_schema


_COUNTED = frozenset({"generation", "models", "usage"})
"""Tags of the routes whose requests are counted."""
_QUOTA_HEADERS = {
    f"x-ratelimit-{value}-{unit}": {"description": f"{text} {unit} a minute.", "schema": {"type": kind}}
    for unit in ("requests", "tokens")
    for value, text, kind in (
        ("limit", "The key's limit, where it has one, for the", "integer"),
        ("remaining", "How many are left now of the", "integer"),
        ("reset", "How long until all are left again of the", "string"),
    )
}


def _operations(document: Extra) -> Iterator[Extra]:
    return (operation for item in document["paths"].values() for operation in item.values())


def _correct_responses(responses: Extra, *, has_quotas: bool) -> None:
    """Remove what the framework adds and is never sent; add the headers that all responses have."""
    responses.pop("422", None)
    content = responses["200"]["content"]
    if content.get(_JSON) == {"schema": {}}:
        del content[_JSON]
    for status, response in responses.items():
        headers = response.setdefault("headers", {})
        headers["x-request-id"] = {
            "description": "The request's id in the logs.",
            "schema": {"type": "string"},
        }
        if has_quotas and status != "401":
            headers |= _QUOTA_HEADERS
        if status in ("429", "503"):
            headers["retry-after"] = {
                "description": "Seconds until a retry makes sense.",
                "schema": {"type": "integer", "minimum": 0},
            }


def _add_examples(paths: Extra) -> None:
    """Give each route the example of a response."""
    for path, item in paths.items():
        for operation in item.values():
            for media_type, content in operation["responses"]["200"]["content"].items():
                if (path, media_type) in _REPLIES:
                    content["example"] = _REPLIES[path, media_type]


def _schemas() -> dict[str, Any]:
    schemas = [(model, "validation") for model in (*_BODIES, *_CHUNKS)]
    _, found = models_json_schema(schemas, ref_template=_PREFIX + "{model}")  # type: ignore[arg-type]
    definitions: dict[str, Any] = found["$defs"]
    return definitions


_JSON = "application/json"
_MODEL = "llama-3.1-8b"
_USAGE = {
    "prompt_tokens": 17,
    "completion_tokens": 3,
    "total_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 0},
}
_TIMINGS = {"queue_ms": 0.6, "prefill_ms": 5.6, "decode_ms": 10.6}
_PARAMETERS = {
    "max_tokens": 150,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 0,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "seed": 42,
    "logit_bias": {},
}
_ENDING = {
    "index": 0,
    "cause": "end_of_sequence",
    "stop_sequence": None,
    "stop_token_id": 128009,
    "filter_rule": None,
}
_METADATA = {
    "region": "local",
    "latency_ms": 18,
    "queue_time_ms": 1,
    "inference_time_ms": 16,
    "model_load_time_ms": 0,
    "timings": {**_TIMINGS, "bridge_ms": 1.5, "time_to_first_token_ms": 6.2},
    "batch_size": 1,
    "parameters": _PARAMETERS,
    "ignored_parameters": [],
    "choices": [_ENDING],
}
_SERVED = {
    "id": _MODEL,
    "object": "model",
    "created": 1767225600,
    "owned_by": "lodestream",
    "root": _MODEL,
    "parent": None,
    "permission": [],
    "aliases": [],
    "context_length": 8192,
    "vocabulary_size": 128256,
    "backend": "tensorrt_llm",
    "max_concurrency": 64,
    "default_max_tokens": 150,
    "max_tokens_limit": 4096,
}


def _reply(kind: str, choice: Extra, **more: Any) -> Extra:
    head = {"id": f"{kind}-1", "object": kind, "created": 1767225600, "model": _MODEL}
    choices = [{"index": 0, **choice, "logprobs": None, "finish_reason": "stop"}] if choice else []
    return {**head, "choices": choices, "usage": _USAGE, **more}


_VALIDATION = _reply("validation", {}, parameters=_PARAMETERS, queue_estimate_ms=0.0, ignored_parameters=[])
_CHAT_MESSAGE = {"role": "assistant", "content": "Paris.", "refusal": None}
_BACKEND = {"name": "tensorrt_llm", "version": "1.2.1", "extensions": []}
_REPLIES: dict[tuple[str, str], Any] = {
    ("/v1/chat/completions", _JSON): _reply(
        "chat.completion", {"message": _CHAT_MESSAGE}, pg_metadata=_METADATA
    ),
    ("/v1/completions", _JSON): _reply("text_completion", {"text": "Paris."}, pg_metadata=_METADATA),
    ("/v1/completions/stream", _JSON): _VALIDATION,
    ("/v1/models", _JSON): {"object": "list", "data": [_SERVED]},
    ("/v1/models/{model}", _JSON): _SERVED,
    ("/v1/usage/{request_id}", _JSON): {
        "id": "my-request-1",
        "object": "usage.receipt",
        "created": 1767225600.25,
        "model": _MODEL,
        "key_id": "anonymous",
        "key_name": "anonymous",
        "outcome": "ok",
        "finish_causes": ["end_of_sequence"],
        "choices": 1,
        "usage": _USAGE,
        "timings": {**_TIMINGS, "time_to_first_token_ms": 6.2, "total_ms": 16.9},
    },
    ("/health", _JSON): {
        "status": "healthy",
        "node": "local",
        "runtime": "lodestream",
        "timestamp": "2026-01-01T00:00:00.000+00:00",
        "features": {"dynamic_loading": False, "huggingface_support": False},
        "backend": {"healthy": True, "info": _BACKEND},
    },
    ("/health/live", _JSON): {"status": "ok"},
    ("/health/ready", _JSON): {"status": "ready"},
    ("/metrics", "text/plain"): "# TYPE lodestream_bridge_requests_total counter\n"
    'lodestream_bridge_requests_total{method="GET",outcome="ok",route="/v1/models",status="200"} 1.0\n',
}
"""Responses by path and media type; events have an example of their own."""

_PAGE = "/docs"
_ASSETS = "/docs/assets"


def add_docs(app: FastAPI) -> None:
    """Add `/docs`, and the scripts and styles that it loads, to an app."""
    app.mount(_ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]))

    @app.get(_PAGE, include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_ASSETS}/favicon-32x32.png",
            # The default validator shows an image of another host.
            swagger_ui_parameters={"validatorUrl": None},
        )
