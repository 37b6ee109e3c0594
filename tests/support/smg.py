"""Callers of the gateway's worker protocol, as the gateway itself is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from smg_grpc_proto.generated import trtllm_service_pb2 as pb
from smg_grpc_proto.generated import trtllm_service_pb2_grpc as stubs

from tests.support.service import Running, running_service


def stub_of(service: Running) -> Any:
    """A stub of the worker protocol."""
    return stubs.TrtllmServiceStub(service.channel)  # type: ignore[no-untyped-call]


@asynccontextmanager
async def running_worker(**settings: Any) -> AsyncIterator[Running]:
    """A service that speaks the worker protocol, too."""
    async with running_service(smg_worker=True, **settings) as service:
        yield service


def request_for(service: Running, prompt: str = "the quick brown fox", **fields: Any) -> pb.GenerateRequest:
    """A request as the gateway makes it: the prompt as tokens, most fields set to what is usual."""
    given: dict[str, Any] = {
        "request_id": "test-1",
        "max_tokens": 8,
        "streaming": True,
        "sampling_config": {"beam_width": 1, "num_return_sequences": 1, "temperature": 0.0},
        "output_config": {"exclude_input_from_output": True},
        **fields,
    }
    ids = service.loaded.model.tokenizer.encode_text(prompt)
    return pb.GenerateRequest(tokenized={"original_text": prompt, "input_token_ids": ids}, **given)


@dataclass(slots=True)
class Received:
    """One answer."""

    chunks: list[pb.GenerateStreamChunk] = field(default_factory=list)
    completes: list[pb.GenerateComplete] = field(default_factory=list)

    @property
    def complete(self) -> pb.GenerateComplete:
        """The end of the only sequence."""
        (complete,) = self.completes
        return complete

    def streamed(self, sequence: int = 0) -> list[int]:
        """The tokens of all chunks of a sequence."""
        return [i for chunk in self.chunks if chunk.sequence_index == sequence for i in chunk.token_ids]


async def ask_worker(
    service: Running, request: pb.GenerateRequest, metadata: Mapping[str, str] | None = None
) -> Received:
    """Send a request and read its answer to the end."""
    received = Received()
    call = stub_of(service).Generate(request, metadata=tuple((metadata or {}).items()))
    async for response in call:
        assert response.request_id == request.request_id
        if response.WhichOneof("response") == "chunk":
            received.chunks.append(response.chunk)
        else:
            received.completes.append(response.complete)
    return received
