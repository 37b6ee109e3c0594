"""The routes of chat and text completions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_client import Started
from lodestream_common.keys import Level
from rest_bridge.middleware import until_disconnect
from rest_bridge.openai.convert import chat_request, completion_request, own_names
from rest_bridge.openai.policy import ignored_header, ignored_parameters
from rest_bridge.openai.requests import ChatCompletionRequest, CompletionRequest, GenerationRequest
from rest_bridge.openai.response_schemas import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
)
from rest_bridge.openai.responses import (
    CHAT_RESPONSE,
    COMPLETION_RESPONSE,
    ResponseContext,
    ResponseShape,
    json_response,
)
from rest_bridge.openapi import GENERATION_ERRORS, event_stream, generation_body
from rest_bridge.request import Bridge, admit, bridge_of, parse_body, read_body
from rest_bridge.streaming.chunks import CHAT, COMPLETION, ChunkShape, Frames
from rest_bridge.streaming.sse import EventStream

router = APIRouter(tags=["generation"])
Body = TypeVar("Body", bound=GenerationRequest)


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Body]):
    """The differences between chat and text completions."""

    schema: type[Body]
    to_message: Callable[[Body], GenerateRequest]
    response: ResponseShape
    chunks: ChunkShape

    async def respond(self, request: Request, *, always_stream: bool = False) -> Response:
        """Answer one request.

        Raises:
            ApiError, InferenceError: it was refused, or failed.
            ClientGone: the caller left.

        """
        bridge, context = bridge_of(request), admit(request, Level.READ_WRITE)
        config = bridge.config
        body = parse_body(self.schema, await read_body(request, config.max_body_bytes))
        context.model = body.model
        streams = (always_stream or bool(body.stream)) and not body.validate_only
        ignored = ignored_parameters(body, streams=streams, strict=config.strict)
        message = self.to_message(body)
        context.names = own_names(body)
        response = ResponseContext.of(context, body, message, config.region, ignored)
        if streams:
            return self._stream(bridge, message, response)
        return await self._whole(bridge, request, message, response)

    async def _whole(
        self, bridge: Bridge, request: Request, message: GenerateRequest, context: ResponseContext
    ) -> Response:
        # `collect_request` reads a stream: a whole answer in one message may exceed the message limit.
        is_validation = message.validate_only
        generate = bridge.client.generate_request if is_validation else bridge.client.collect_request
        async with context.request.until_revoked, until_disconnect(request.receive):
            generation = await generate(message, **context.request.generation_options)
        context.request.rate_limits = partial(dict, generation.rate_limits)
        ignored = ignored_header(context.ignored_parameters(generation.report))
        if is_validation:
            return json_response(self.response.validation(generation, context), ignored)
        content = self.response.render(generation, context)
        return json_response(content, {**context.headers(generation), **ignored})

    def _stream(self, bridge: Bridge, message: GenerateRequest, context: ResponseContext) -> EventStream:
        def headers(started: Started | None) -> dict[str, str]:
            return ignored_header(context.ignored_parameters(started) if started else context.ignored)

        stream = bridge.client.stream_request(message, **context.request.generation_options)
        context.request.rate_limits = lambda: stream.rate_limits
        return EventStream(
            stream,
            partial(Frames, self.chunks, context),
            context.request,
            keepalive=bridge.config.sse_keepalive,
            interval=partial(bridge.pacer.interval, context.request.max_interval),
            headers=headers,
        )


_CHAT_EXAMPLE = {
    "model": "llama-3.1-8b",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 150,
}

_chat = Endpoint(ChatCompletionRequest, chat_request, CHAT_RESPONSE, CHAT)


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses={200: event_stream(ChatCompletion, ChatCompletionChunk), **GENERATION_ERRORS},
    openapi_extra=generation_body(ChatCompletionRequest, _CHAT_EXAMPLE),
)
async def create_chat_completion(request: Request) -> Response:
    """Continue a conversation. With `stream` the answer comes as server-sent events."""
    return await _chat.respond(request)


_COMPLETION_EXAMPLE = {"model": "llama-3.1-8b", "prompt": "The capital of France is", "max_tokens": 16}

_completion = Endpoint(CompletionRequest, completion_request, COMPLETION_RESPONSE, COMPLETION)


@router.post(
    "/v1/completions",
    response_model=None,
    responses={200: event_stream(Completion, CompletionChunk), **GENERATION_ERRORS},
    openapi_extra=generation_body(CompletionRequest, _COMPLETION_EXAMPLE),
)
async def create_completion(request: Request) -> Response:
    """Continue a text. With `stream` the answer comes as server-sent events."""
    return await _completion.respond(request)


@router.post(
    "/v1/completions/stream",
    response_model=None,
    responses={200: event_stream(None, CompletionChunk), **GENERATION_ERRORS},
    openapi_extra=generation_body(CompletionRequest, _COMPLETION_EXAMPLE),
)
async def stream_completion(request: Request) -> Response:
    """Continue a text, always as server-sent events."""
    return await _completion.respond(request, always_stream=True)


def routes() -> list[APIRoute]:
    """The routes of this module."""
    return [route for route in router.routes if isinstance(route, APIRoute)]
