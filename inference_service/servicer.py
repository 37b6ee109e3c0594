"""GenerateService: one RPC = context → parse → admit → generate → encode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import cast

from lodestream.inference.v1 import generate_service_pb2 as pb
from lodestream.inference.v1 import generate_service_pb2_grpc as pb_grpc

from inference_service import encode, parse
from inference_service.access import ANONYMOUS
from inference_service.backends.types import EngineRequest
from inference_service.call import Call, Calls, Context
from inference_service.engine_room import EngineDoor
from inference_service.generation.deadline import Deadline
from inference_service.generation.events import Event
from inference_service.generation.generator import Generation, GenerationRequest, Stopwatch
from inference_service.served import ServedModel
from lodestream_common.keys import Level


class GenerateServicer(pb_grpc.GenerateServiceServicer):
    """The data plane."""

    def __init__(self, *, door: EngineDoor, calls: Calls, max_message_bytes: int) -> None:
        self._door = door
        self._calls = calls
        self._max_message_bytes = max_message_bytes

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:  # noqa: N802
        fold = encode.ResponseFold()
        async with (
            self._calls.run(context, "Generate", Level.READ_WRITE) as call,
            self._events(call, request) as events,
        ):
            async for event in events:
                fold.add(event)
        return fold.response()

    async def GenerateStream(self, request: pb.GenerateRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        async with (
            self._calls.run(context, "GenerateStream", Level.READ_WRITE) as call,
            self._events(call, request) as events,
        ):
            async for event in events:
                await call.write(encode.stream_response(event))

    @asynccontextmanager
    async def _events(self, call: Call, message: pb.GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a generation that holds its permit for as long as the context lasts."""
        watch = Stopwatch()
        room = self._door.enter()
        room.admission.check_open()
        request = await self._read(call, message, room.model)
        call.facts |= {"model": request.model, "prompt_tokens": len(request.engine.prompt_ids)}
        tenant = call.caller.key_id if call.caller else ANONYMOUS
        async with room.admission.permit(tenant, request.deadline):
            watch.on_admitted()
            generation = Generation(room.backend, room.model.tokenizer, request, watch)
            try:
                async with aclosing(generation.events()) as events:
                    yield events
            finally:
                call.facts |= _facts(generation, watch)

    async def _read(self, call: Call, message: pb.GenerateRequest, model: ServedModel) -> GenerationRequest:
        size = parse.check_size(message, self._max_message_bytes)
        parsed, prompt_ids = await model.work(size, _understand, call, message, model)
        engine = EngineRequest(
            request_id=call.request_id,
            prompt_ids=prompt_ids,
            sampling=parsed.sampling,
            max_tokens=model.room(parsed, len(prompt_ids)),
            ignore_eos=parsed.ignore_eos,
        )
        deadline = _deadline(call.context)
        return GenerationRequest(model.id, engine, parsed.stops, frozenset(parsed.stop_token_ids), deadline)


def _understand(
    call: Call, message: pb.GenerateRequest, model: ServedModel
) -> tuple[parse.ParsedRequest, Sequence[int]]:
    parsed = parse.parse_generate(message)
    call.facts |= {"user": parsed.user} if parsed.user else {}
    model.check_name(parsed.model)
    model.check_sampling(parsed.sampling)
    parse.check_token_ids(parsed.stop_token_ids, model.engine.vocabulary_size, "stop_token_ids")
    return parsed, model.encode(parsed.prompt)


def _deadline(context: Context) -> Deadline | None:
    seconds = cast("float | None", context.time_remaining())
    return None if seconds is None else Deadline.after(seconds)


def _facts(generation: Generation, watch: Stopwatch) -> dict[str, object]:
    timings = watch.timings
    return {
        "completion_tokens": generation.completion_tokens,
        "cached_tokens": generation.cached_tokens,
        "finish": generation.cause.value if generation.cause else None,
        "queue_ms": round(timings.queue_ms, 1),
        "prefill_ms": round(timings.prefill_ms, 1),
        "decode_ms": round(timings.decode_ms, 1),
    }
