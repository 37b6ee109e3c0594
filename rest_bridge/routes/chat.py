from __future__ import annotations

from fastapi import APIRouter, Request, Response

from rest_bridge.openai.convert import chat_request
from rest_bridge.openai.replies import CHAT_REPLY
from rest_bridge.openai.requests import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from rest_bridge.openapi import GENERATION_ERRORS, event_stream, takes
from rest_bridge.routes.generate import Endpoint
from rest_bridge.streaming.chunks import CHAT

_EXAMPLE = {
    "model": "llama-3.1-8b",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 150,
}

router = APIRouter(tags=["generation"])
_chat = Endpoint(ChatCompletionRequest, chat_request, CHAT_REPLY, CHAT)


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses={200: event_stream(ChatCompletion, ChatCompletionChunk), **GENERATION_ERRORS},
    openapi_extra=takes(ChatCompletionRequest, _EXAMPLE),
)
async def create_chat_completion(request: Request) -> Response:
    """Continue a conversation. With `stream` the answer comes as server-sent events."""
    return await _chat.respond(request)
