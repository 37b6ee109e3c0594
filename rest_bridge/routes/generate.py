"""What both ways of generating do; they differ in an `Endpoint`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import orjson
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest
from starlette.requests import Request
from starlette.responses import Response

from inference_client import Started
from lodestream_common.keys import Level
from rest_bridge import ignored
from rest_bridge.account import Account
from rest_bridge.answer import Json
from rest_bridge.body import read_body
from rest_bridge.call import Call, admit
from rest_bridge.choice_frames import Shape
from rest_bridge.convert import names_in
from rest_bridge.disconnect import UntilDisconnect
from rest_bridge.frames import Frames
from rest_bridge.parse import parse_body
from rest_bridge.replies import Reply
from rest_bridge.schemas.generation import GenerationRequest
from rest_bridge.sse import EventStream
from rest_bridge.wanted import wanted_by

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
        names = ignored.ignored_parameters(body, streams=streams, strict=config.strict)
        message = self.to_request(body)
        call.exchange.names = names_in(body)
        account = Account(call.exchange, config.region, names)
        if streams:
            return self._stream(call, body, message, account)
        return await self._whole(request, call, body, message, account)

    async def _whole(
        self, request: Request, call: Call, body: Body, message: GenerateRequest, account: Account
    ) -> Response:
        with call.exchange.until_revoked:
            async with UntilDisconnect(request.receive):
                generation = await call.bridge.client.generate_request(message, **call.options)
        names = account.ignored_by_all(generation.report)
        if body.validate_only:
            reply = self.reply.validation(generation, body.model, account)
            return json_response(reply, ignored.header(names))
        reply = self.reply.render(generation, body.model, wanted_by(body, message), account)
        return json_response(reply, {**account.headers(generation), **ignored.header(names)})

    def _stream(self, call: Call, body: Body, message: GenerateRequest, account: Account) -> EventStream:
        frames = partial(Frames, self.shape, body.model, wanted_by(body, message), account)
        stream = call.bridge.client.stream_request(message, **call.options)

        def headers(started: Started | None) -> dict[str, str]:
            return ignored.header(account.ignored_by_all(started) if started else account.ignored)

        return EventStream(stream, frames, call.exchange, call.bridge.config.sse_keepalive, headers)


def json_response(content: Json, headers: dict[str, str] | None = None) -> Response:
    """A reply in JSON."""
    return Response(orjson.dumps(content), headers=headers, media_type="application/json")
