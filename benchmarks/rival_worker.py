"""A bare worker of smg's TensorRT-LLM protocol; takes the tokens a second of a stream, and prints its port.

It does nothing but make tokens: each stream gets one message a token, at the given speed, or as fast as they
can be written where that is slower. It runs in the environment of `rival.py`, where no other part of this
project is.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from itertools import cycle, islice
from typing import Any

import grpc
import uvloop
from smg_grpc_proto.generated import trtllm_service_pb2 as pb
from smg_grpc_proto.generated import trtllm_service_pb2_grpc as stubs

MODEL = "rival"
_CONTEXT = 8192
_VOCABULARY = 49_152


class Worker(stubs.TrtllmServiceServicer):
    """Answers with the prompt, over and over."""

    def __init__(self, tokens_per_second: float) -> None:
        self._tokens_per_second = tokens_per_second

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:  # noqa: N802
        began, prompt = time.monotonic(), request.tokenized.input_token_ids
        tokens = list(islice(cycle(prompt), request.max_tokens))
        for number, token in enumerate(tokens, 1):
            early = began + number / self._tokens_per_second - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
            if request.streaming:
                chunk = pb.GenerateStreamChunk(
                    token_ids=[token], prompt_tokens=len(prompt), completion_tokens=number
                )
                yield pb.GenerateResponse(request_id=request.request_id, chunk=chunk)
        complete = pb.GenerateComplete(
            output_token_ids=tokens,
            prompt_tokens=len(prompt),
            completion_tokens=len(tokens),
            finish_reason="length",
        )
        yield pb.GenerateResponse(request_id=request.request_id, complete=complete)

    async def Abort(self, request: pb.AbortRequest, context: Any) -> pb.AbortResponse:  # noqa: N802
        return pb.AbortResponse(success=True)

    async def HealthCheck(self, request: pb.HealthCheckRequest, context: Any) -> pb.HealthCheckResponse:  # noqa: N802
        return pb.HealthCheckResponse(status="OK")

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Any) -> pb.GetModelInfoResponse:  # noqa: N802
        return pb.GetModelInfoResponse(
            model_id=MODEL, max_input_len=_CONTEXT, max_seq_len=_CONTEXT, vocab_size=_VOCABULARY
        )

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:  # noqa: N802
        return pb.GetServerInfoResponse(backend="pytorch", tensor_parallel_size=1, world_size=1)


async def serve(tokens_per_second: float) -> None:
    server = grpc.aio.server()
    stubs.add_TrtllmServiceServicer_to_server(Worker(tokens_per_second), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1])))
