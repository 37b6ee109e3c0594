"""The routes that list the served models, in the form of OpenAI's API."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

import inference_client
from lodestream_common.keys import Level
from rest_bridge.openai.responses import Json, json_response
from rest_bridge.openapi import MODEL_ERRORS, SECURED
from rest_bridge.request import admit, bridge_of


class Model(BaseModel):
    """A served model under one of its names."""

    id: str = Field(description="The model's own id, or one of its aliases.")
    object: Literal["model"]
    created: int = Field(description="Seconds since the Unix epoch at which the model was loaded.")
    owned_by: str
    root: str = Field(description="The model's own id; differs from `id` where that is an alias.")
    parent: str | None
    permission: list[Any]
    aliases: list[str] = Field(description="The other names that requests may use for the same model.")
    context_length: int = Field(description="Largest number of tokens of prompt and output together.")
    vocabulary_size: int
    backend: str = Field(description="The engine that runs it.")
    max_concurrency: int = Field(description="Generations that run at once; others wait in the queue.")
    default_max_tokens: int = Field(
        description="Limit of an answer's tokens if the request sets no `max_tokens`."
    )
    max_tokens_limit: int = Field(description="The largest `max_tokens` of a request.")


class ModelList(BaseModel):
    """Every name of every served model."""

    object: Literal["list"]
    data: list[Model]


router = APIRouter(tags=["models"])


@router.get(
    "/v1/models",
    response_model=None,
    responses={200: {"model": ModelList}, **MODEL_ERRORS},
    openapi_extra=SECURED,
)
async def list_models(request: Request) -> Response:
    """List every name that requests may use for a model, aliases included."""
    context = admit(request, Level.READ_ONLY)
    models = await bridge_of(request).client.list_models(**context.rpc_options)
    context.rate_limits = lambda: models[0].rate_limits if models else {}
    return json_response({"object": "list", "data": [_model(model) for model in models]})


@router.get(
    # An id may hold slashes.
    "/v1/models/{model:path}",
    response_model=None,
    responses={200: {"model": Model}, **MODEL_ERRORS},
    openapi_extra=SECURED,
)
async def retrieve_model(request: Request, model: str) -> Response:
    """Describe one model under the name in the path, its id or an alias."""
    context = admit(request, Level.READ_ONLY)
    context.model = model
    found = await bridge_of(request).client.get_model(model, **context.rpc_options)
    context.rate_limits = partial(dict, found.rate_limits)
    return json_response(_model(found))


def _model(model: inference_client.Model) -> Json:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "root": model.root or model.id,
        "parent": None,
        "permission": [],
        "aliases": model.aliases,
        "context_length": model.context_length,
        "vocabulary_size": model.vocabulary_size,
        "backend": model.backend,
        "max_concurrency": model.max_concurrency,
        "default_max_tokens": model.default_max_tokens,
        "max_tokens_limit": model.max_tokens_limit,
    }
