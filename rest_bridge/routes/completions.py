from __future__ import annotations

from fastapi import APIRouter, Request, Response

from rest_bridge.openai.convert import completion_request
from rest_bridge.openai.replies import COMPLETION_REPLY
from rest_bridge.openai.requests import Completion, CompletionChunk, CompletionRequest
from rest_bridge.openapi import GENERATION_ERRORS, event_stream, takes
from rest_bridge.routes.generate import Endpoint
from rest_bridge.streaming.chunks import COMPLETION

_EXAMPLE = {"model": "llama-3.1-8b", "prompt": "The capital of France is", "max_tokens": 16}

router = APIRouter(tags=["generation"])
_completion = Endpoint(CompletionRequest, completion_request, COMPLETION_REPLY, COMPLETION)


@router.post(
    "/v1/completions",
    response_model=None,
    responses={200: event_stream(Completion, CompletionChunk), **GENERATION_ERRORS},
    openapi_extra=takes(CompletionRequest, _EXAMPLE),
)
async def create_completion(request: Request) -> Response:
    """Continue a text. With `stream` the answer comes as server-sent events."""
    return await _completion.respond(request)


@router.post(
    "/v1/completions/stream",
    response_model=None,
    responses={200: event_stream(None, CompletionChunk), **GENERATION_ERRORS},
    openapi_extra=takes(CompletionRequest, _EXAMPLE),
)
async def stream_completion(request: Request) -> Response:
    """Continue a text, always as server-sent events."""
    return await _completion.respond(request, always_stream=True)
