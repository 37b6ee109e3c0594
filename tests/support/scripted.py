"""A service whose answers a test scripts, on a real socket. Run as a program it prints its port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_status import rpc_status
from lodestream.inference.v1 import (
    generate_service_pb2,
    generate_service_pb2_grpc,
    generation_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)

DOMAIN = "lodestream.inference.v1"

Request = generate_service_pb2.GenerateRequest
Response = generate_service_pb2.GenerateResponse
Event = generate_service_pb2.GenerateStreamResponse
StreamScript = Callable[[Request, Any], AsyncIterator[Event]]
AnswerScript = Callable[[Request, Any], Awaitable[Response]]


def started(request_id: str = "server-id", model: str = "m") -> Event:
    return Event(
        started=generation_pb2.Started(request_id=request_id, model=model, created=7, prompt_tokens=3)
    )


def delta(text: str, choice: int = 0, ids: Sequence[int] = (1,), **fields: Any) -> Event:
    return Event(
        delta=generation_pb2.Delta(
            choice_index=choice, text=text, token_ids=ids, token_count=len(ids), **fields
        )
    )


def call_delta(index: int = 0, choice: int = 0, **fields: str) -> Event:
    """A delta with one piece of a tool call."""
    piece = generation_pb2.ToolCallDelta(index=index, **fields)
    return delta("", choice, tool_calls=[piece])


def logprob(token: str = "a", top: Sequence[str] = ()) -> generation_pb2.TokenLogprob:
    """The log probability of a token, whose id is the code of its first character, and its alternatives."""
    return generation_pb2.TokenLogprob(
        token_id=ord(token[0]),
        token=token,
        bytes=token.encode(),
        logprob=-0.5,
        top=[generation_pb2.TokenLogprob(token_id=ord(t[0]), token=t, logprob=-1.5) for t in top],
    )


def finished(choice: int = 0, reason: int = 1, cause: int = 1, **fields: Any) -> Event:
    return Event(
        finished=generation_pb2.Finished(
            choice_index=choice,
            reason=generation_pb2.FinishReason.ValueType(reason),
            cause=generation_pb2.StopCause.ValueType(cause),
            **fields,
        )
    )


REPORT = generation_pb2.Report(
    ignored_parameters=["field 99"],
    sampling=generation_pb2.SamplingOptions(
        temperature=0.1,
        top_p=0.2,
        top_k=3,
        min_p=0.4,
        frequency_penalty=0.5,
        presence_penalty=0.6,
        repetition_penalty=0.7,
        seed=-8,
        logit_bias={9: -100.0},
    ),
    max_tokens=10,
    batch_size=11,
    queue_estimate_ms=12.5,
)


def summary(report: generation_pb2.Report | None = None) -> Event:
    usage = generation_pb2.Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1)
    timings = generation_pb2.Timings(queue_ms=1.0, prefill_ms=2.0, decode_ms=3.0, time_to_first_token_ms=4.0)
    return Event(summary=generation_pb2.Summary(usage=usage, timings=timings, report=report))


def whole_answer(text: str = "Hello") -> Response:
    choice = generate_service_pb2.Choice(
        text=text, token_ids=[1, 2], token_count=2, finished=finished().finished
    )
    end = summary().summary
    return Response(
        request_id="server-id", model="m", created=7, choices=[choice], usage=end.usage, timings=end.timings
    )


def validated() -> Response:
    """The answer to a request with validate_only."""
    usage = generation_pb2.Usage(prompt_tokens=3)
    return Response(request_id="server-id", model="m", created=7, usage=usage, report=REPORT)


def answering(response: Response) -> AnswerScript:
    """A script that gives this answer to every request."""

    async def answer(request: Request, context: Any) -> Response:
        return response

    return answer


def script(*events: Event) -> StreamScript:
    """A script that streams exactly these events."""

    async def stream(request: Request, context: Any) -> AsyncIterator[Event]:
        for event in events:
            yield event

    return stream


HELLO = (started(), delta("Hel"), delta("lo", ids=(2,)), finished(), summary())


async def refuse(context: Any, code: grpc.StatusCode, message: str, *details: Message) -> None:
    """End the call as the service does: a status with google.rpc details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort_with_status(rpc_status.to_status(status))


def error_info(reason: str, **metadata: str) -> Message:
    info: Message = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    return info


def retry_info(seconds: float) -> Message:
    delay = Duration()
    delay.FromMilliseconds(int(seconds * 1000))
    info: Message = error_details_pb2.RetryInfo(retry_delay=delay)
    return info


@dataclass(frozen=True, slots=True)
class Seen:
    """One call as it reached the server."""

    request: Any
    metadata: dict[str, str | bytes]
    time_remaining: float | None
    at: float


class ScriptedService(
    generate_service_pb2_grpc.GenerateServiceServicer, model_service_pb2_grpc.ModelServiceServicer
):
    """Answers with the scripts in `stream` and `answer`, and records every call."""

    def __init__(self) -> None:
        self.stream: StreamScript = _HELLO
        self.answer: AnswerScript = self._hello
        self.seen: list[Seen] = []
        self.running = 0
        self.cancelled = 0
        self.model = model_service_pb2.Model(
            id="m", aliases=["alias"], created=7, owned_by="us", context_length=64, vocabulary_size=100
        )

    async def Generate(self, request: Request, context: Any) -> Response:  # noqa: N802
        async with self._watched(request, context):
            return await self.answer(request, context)

    async def GenerateStream(self, request: Request, context: Any) -> AsyncIterator[Event]:  # noqa: N802
        whole_only = self.stream is _HELLO and self.answer != self._hello
        async with self._watched(request, context):
            # The bridge receives whole answers as streams.
            stream = _pieces(self.answer) if whole_only else self.stream
            async for event in stream(request, context):
                yield event

    async def ListModels(self, request: Any, context: Any) -> model_service_pb2.ListModelsResponse:  # noqa: N802
        async with self._watched(request, context):
            return model_service_pb2.ListModelsResponse(models=[self.model])

    async def GetModel(self, request: Any, context: Any) -> model_service_pb2.GetModelResponse:  # noqa: N802
        async with self._watched(request, context):
            if request.model != self.model.id:
                info = error_info("MODEL_NOT_FOUND", served="m, other")
                await refuse(context, grpc.StatusCode.NOT_FOUND, "No such model.", info)
            return model_service_pb2.GetModelResponse(model=self.model)

    async def CountTokens(self, request: Any, context: Any) -> model_service_pb2.CountTokensResponse:  # noqa: N802
        async with self._watched(request, context):
            return model_service_pb2.CountTokensResponse(token_count=2, token_ids=[5, 6])

    @asynccontextmanager
    async def _watched(self, request: Any, context: Any) -> AsyncIterator[None]:
        metadata = dict(context.invocation_metadata() or ())
        now = asyncio.get_running_loop().time()
        self.seen.append(Seen(request, metadata, context.time_remaining(), now))
        self.running += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            # The second where gRPC was cancelled as it sent an event, and dropped the stream.
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _hello(self, request: Request, context: Any) -> Response:
        return whole_answer()


_HELLO = script(*HELLO)


def _pieces(answer: AnswerScript) -> StreamScript:
    """The stream whose events join to an answer."""

    async def stream(request: Request, context: Any) -> AsyncIterator[Event]:
        whole = await answer(request, context)
        yield started(whole.request_id, whole.model)
        for choice in whole.choices:
            calls = [
                generation_pb2.ToolCallDelta(
                    index=index, id=call.id, name=call.name, arguments=call.arguments
                )
                for index, call in enumerate(choice.tool_calls)
            ]
            piece = generation_pb2.Delta(
                choice_index=choice.index,
                text=choice.text,
                token_ids=choice.token_ids,
                token_count=choice.token_count,
                logprobs=choice.logprobs,
                tool_calls=calls,
            )
            yield Event(delta=piece)
            yield Event(finished=choice.finished)
        yield Event(
            summary=generation_pb2.Summary(usage=whole.usage, timings=whole.timings, report=whole.report)
        )

    return stream


@dataclass(frozen=True, slots=True)
class Running:
    """A listening service."""

    service: ScriptedService
    server: aio.Server
    target: str
    health: Any

    async def set_health(self, name: str) -> None:
        await self.health.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(name))


@asynccontextmanager
async def serve(
    service: ScriptedService,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> AsyncGenerator[Running, None]:
    server = aio.server(options=options)
    generate_service_pb2_grpc.add_GenerateServiceServicer_to_server(service, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield Running(service, server, f"{address.rsplit(':', 1)[0]}:{port}", health)
    finally:
        await server.stop(0)


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Wait until the condition holds. Return the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() - began < seconds, f"did not happen within {seconds} s"
        await asyncio.sleep(0.005)
    return loop.time() - began


async def _endless(request: Request, context: Any) -> AsyncIterator[Event]:
    yield started()
    while True:
        yield delta("word ")
        await asyncio.sleep(0.01)


async def main() -> None:
    service = ScriptedService()
    service.stream = _endless
    async with serve(service) as running:
        print(running.target, flush=True)
        await running.server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
