"""The routes of chat and text completions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from fastapi import APIRouter, Request, Response
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_client import Generation, Started
from lodestream_common.keys import Level
from rest_bridge.middleware import UntilDisconnect
from rest_bridge.openai import policy
from rest_bridge.openai.convert import chat_request, completion_request, names_in
from rest_bridge.openai.requests import ChatCompletionRequest, CompletionRequest, GenerationRequest
from rest_bridge.openai.response_schemas import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
)
from rest_bridge.openai.responses import (
    CHAT_REPLY,
    COMPLETION_REPLY,
    Reply,
    ResponseMetadata,
    json_response,
    reply_options,
)
from rest_bridge.openapi import GENERATION_ERRORS, event_stream, takes
from rest_bridge.request import AdmittedRequest, admit, parse_body, read_body
from rest_bridge.streaming.chunks import CHAT, COMPLETION, Frames, Shape
from rest_bridge.streaming.sse import EventStream

Body = TypeVar("Body", bound=GenerationRequest)


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Body]):
    """One way of generating."""

    schema: type[Body]
    to_request: Callable[[Body], GenerateRequest]
    reply: Reply
    """Of whole replies."""
    shape: Shape
    """Of the chunks of a stream."""

    async def respond(self, request: Request, *, always_stream: bool = False) -> Response:
        """Answer one request.

        Raises:
            ApiError, InferenceError: it was refused, or failed.
            ClientGone: the caller left.

        """
        call = admit(request, Level.READ_WRITE)
        config = call.bridge.config
        body = parse_body(self.schema, await read_body(request, config.max_body_bytes))
        streams = (always_stream or bool(body.stream)) and not body.validate_only
        names = policy.ignored_parameters(body, streams=streams, strict=config.strict)
        message = self.to_request(body)
        call.exchange.names = names_in(body)
        account = ResponseMetadata(call.exchange, config.region, names)
        if streams:
            return self._stream(call, body, message, account)
        return await self._whole(request, call, body, message, account)

    async def _whole(
        self,
        request: Request,
        call: AdmittedRequest,
        body: Body,
        message: GenerateRequest,
        account: ResponseMetadata,
    ) -> Response:
        with call.exchange.until_revoked:
            async with UntilDisconnect(request.receive):
                generation = await self._generation(call, message)
        names = account.ignored_by_all(generation.report)
        if body.validate_only:
            reply = self.reply.validation(generation, body.model, account)
            return json_response(reply, policy.header(names))
        reply = self.reply.render(generation, body.model, reply_options(body, message), account)
        return json_response(reply, {**account.headers(generation), **policy.header(names)})

    async def _generation(self, call: AdmittedRequest, message: GenerateRequest) -> Generation:
        """The whole answer; it comes in pieces, since in one it may be too large for a message."""
        client = call.bridge.client
        ask = client.generate_request if message.validate_only else client.collect_request
        return await ask(message, **call.options)

    def _stream(
        self, call: AdmittedRequest, body: Body, message: GenerateRequest, account: ResponseMetadata
    ) -> EventStream:
        frames = partial(Frames, self.shape, body.model, reply_options(body, message), account)
        stream = call.bridge.client.stream_request(message, **call.options)

        def headers(started: Started | None) -> dict[str, str]:
            return policy.header(account.ignored_by_all(started) if started else account.ignored)

        return EventStream(
            stream,
            frames,
            call.exchange,
            keepalive=call.bridge.config.sse_keepalive,
            interval=call.interval,
            headers=headers,
        )


_CHAT_EXAMPLE = {
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
    openapi_extra=takes(ChatCompletionRequest, _CHAT_EXAMPLE),
)
async def create_chat_completion(request: Request) -> Response:
    """Continue a conversation. With `stream` the answer comes as server-sent events."""
    return await _chat.respond(request)


_COMPLETION_EXAMPLE = {"model": "llama-3.1-8b", "prompt": "The capital of France is", "max_tokens": 16}

_completion = Endpoint(CompletionRequest, completion_request, COMPLETION_REPLY, COMPLETION)


@router.post(
    "/v1/completions",
    response_model=None,
    responses={200: event_stream(Completion, CompletionChunk), **GENERATION_ERRORS},
    openapi_extra=takes(CompletionRequest, _COMPLETION_EXAMPLE),
)
async def create_completion(request: Request) -> Response:
    """Continue a text. With `stream` the answer comes as server-sent events."""
    return await _completion.respond(request)


@router.post(
    "/v1/completions/stream",
    response_model=None,
    responses={200: event_stream(None, CompletionChunk), **GENERATION_ERRORS},
    openapi_extra=takes(CompletionRequest, _COMPLETION_EXAMPLE),
)
async def stream_completion(request: Request) -> Response:
    """Continue a text, always as server-sent events."""
    return await _completion.respond(request, always_stream=True)
