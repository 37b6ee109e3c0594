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

from inference_client import Generation
from lodestream_common.keys import Level
from rest_bridge import ignored
from rest_bridge.body import read_body
from rest_bridge.call import Call, admit
from rest_bridge.convert import Json
from rest_bridge.disconnect import UntilDisconnect
from rest_bridge.frames import Frames, Shape
from rest_bridge.parse import parse_body
from rest_bridge.schemas.generation import GenerationRequest
from rest_bridge.sse import EventStream

Body = TypeVar("Body", bound=GenerationRequest)


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Body]):
    """One way of generating."""

    schema: type[Body]
    to_request: Callable[[Body], GenerateRequest]
    to_reply: Callable[[Generation, str, str, bool], Json]
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
        streams = always_stream or bool(body.stream)
        names = ignored.ignored_parameters(body, streams=streams, strict=config.strict)
        headers = {"x-ignored-parameters": ignored.header_value(names)} if names else {}
        message = self.to_request(body)
        if streams:
            return self._stream(call, body, message, headers)
        async with UntilDisconnect(request.receive):
            generation = await call.bridge.client.generate_request(message, **call.options)
        reply = self.to_reply(generation, body.model, config.region, bool(body.return_token_ids))
        return json_response(reply, headers)

    def _stream(
        self, call: Call, body: Body, message: GenerateRequest, headers: dict[str, str]
    ) -> EventStream:
        options = body.stream_options
        frames = partial(
            Frames,
            self.shape,
            body.model,
            with_usage=options is not None and bool(options.include_usage),
            with_token_ids=bool(body.return_token_ids),
        )
        stream = call.bridge.client.stream_request(message, **call.options)
        return EventStream(stream, frames, call.exchange, call.bridge.config.sse_keepalive, headers)


def json_response(content: Json, headers: dict[str, str] | None = None) -> Response:
    """A reply in JSON."""
    return Response(orjson.dumps(content), headers=headers, media_type="application/json")
