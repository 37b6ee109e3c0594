"""GenerateService: one RPC is parsed, planned, admitted, run in the engine and encoded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import cast

import grpc
from lodestream.inference.v1 import generate_service_pb2 as pb

from inference_service.errors import InvalidRequest
from inference_service.output.events import Event
from inference_service.request import generate
from inference_service.rpc import encode
from inference_service.rpc.auth import ANONYMOUS
from inference_service.rpc.call import Context, RpcCall, RunningCalls
from inference_service.scheduling.deadline import Deadline, Stopwatch
from inference_service.scheduling.loaded_engine import EngineSlot, LoadedEngine
from inference_service.scheduling.planner import Planner, RequestOwner, effort_of
from inference_service.scheduling.runner import Generation, GenerationRequest
from lodestream_common.keys import Level

MAX_ANSWER_BYTES = 1 << 30
"""Of an answer in one message. Protobuf ends at twice as much."""

_SCORE_BYTES = 32
"""Of a log probability, beside its token's text."""
_TOKEN_BYTES = 8
"""Of a token, beside its text."""
_WIDEST = 3
"""A byte that is no text is told as a character of three."""


class GenerateServicer:
    """The data plane."""

    def __init__(self, door: EngineSlot) -> None:
        self._door = door

    def handlers(self, calls: RunningCalls) -> grpc.GenericRpcHandler:
        """The methods, for the server."""
        kind, level = pb.GenerateRequest, Level.READ_WRITE
        return grpc.method_handlers_generic_handler(
            pb.DESCRIPTOR.services_by_name["GenerateService"].full_name,
            {
                "Generate": calls.unary("Generate", kind, level, self._generate),
                "GenerateStream": calls.streamed("GenerateStream", kind, level, self._generate_stream),
            },
        )

    async def _generate(self, call: RpcCall, request: pb.GenerateRequest) -> pb.GenerateResponse:
        fold = encode.ResponseFold()
        async with self._events(call, request, whole=True) as events:
            async for event in events:
                fold.add(event)
        return fold.response()

    async def _generate_stream(self, call: RpcCall, request: pb.GenerateRequest) -> None:
        async with self._events(call, request) as events:
            async for event in events:
                await call.write(encode.stream_response(event))

    @asynccontextmanager
    async def _events(
        self, call: RpcCall, message: pb.GenerateRequest, *, whole: bool = False
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a generation; the engine is free when the context ends.

        Args:
            call: the RPC.
            message: its request.
            whole: the answer is to be one message.

        """
        watch = Stopwatch()
        room = self._door.enter()
        room.admission.check_open()
        if not message.validate_only:
            room.admission.check_space(call.tenant)
        request = await self._read(call, message, room)
        if whole:
            _check_size(request, room.model.tokenizer.longest_token)
        call.facts |= {"model": request.model, "prompt_tokens": request.prompt_tokens}
        with room.admission.reserve(call.tenant, request.permits, request.deadline) as permit:
            generation = Generation(room.backend, permit, request, watch)
            try:
                async with aclosing(generation.events()) as events:
                    yield events
            finally:
                call.facts |= _facts(generation, watch)

    async def _read(
        self, call: RpcCall, message: pb.GenerateRequest, room: LoadedEngine
    ) -> GenerationRequest:
        room.model.check_length(message, message.stopping.max_tokens)
        parsed = await room.model.work(
            call.tenant, call.size, generate.parse_generate, message, room.model.limits
        )
        call.facts |= {"user": parsed.user} if parsed.user else {}
        caller = RequestOwner(call.request_id, _key_name(call), _deadline(call.context))
        planner = Planner(room.model, room.policy, room.backend.check_grammar)
        request = await room.model.work(
            call.tenant, call.size, planner.plan, parsed, caller, effort=effort_of(parsed)
        )
        if not parsed.validate_only:
            return request
        estimate = room.admission.estimate(call.tenant)
        return replace(request, report=replace(request.report, queue_estimate=estimate))


def _check_size(request: GenerationRequest, longest_token: int) -> None:
    """Refuse what may have an answer too large for one message, before it is computed.

    Raises:
        InvalidRequest: it may; says how large.

    """
    text = _WIDEST * longest_token
    most = 0
    for choice in request.choices:
        engine = choice.engine
        scores = 0 if engine.logprobs is None else engine.logprobs + 1
        most += engine.max_tokens * (text + _TOKEN_BYTES + scores * (2 * text + _SCORE_BYTES))
    if most > MAX_ANSWER_BYTES:
        raise InvalidRequest.of(
            "stopping.max_tokens",
            f"lets the answer have up to {most} bytes; in one message it may have {MAX_ANSWER_BYTES}. "
            "Ask for a stream.",
        )


def _key_name(call: RpcCall) -> str:
    return call.caller.key_name if call.caller else ANONYMOUS


def _deadline(context: Context) -> Deadline | None:
    seconds = cast("float | None", context.time_remaining())
    return None if seconds is None else Deadline.after(seconds)


def _facts(generation: Generation, watch: Stopwatch) -> dict[str, object]:
    timings, usage = watch.timings, generation.usage
    return {
        "choices": generation.choices,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "finish": ",".join(cause.value for cause in generation.causes) or None,
        "filter_rules": sorted(generation.filter_rules) or None,
        "queue_ms": round(timings.queue_ms, 1),
        "prefill_ms": round(timings.prefill_ms, 1),
        "decode_ms": round(timings.decode_ms, 1),
    }
