"""The spans of an RPC and its stages, by the conventions for RPC and GenAI. They hold no text of callers."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import grpc
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import model_service_pb2 as model_pb
from lodestream.inference.v1 import usage_service_pb2 as usage_pb

from inference_service.scheduling.runner import Progress
from lodestream_common.tracing import Attributes, Span

_METHODS = {
    method.name: f"{service.full_name}/{method.name}"
    for file in (generate_pb.DESCRIPTOR, model_pb.DESCRIPTOR, usage_pb.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
} | {
    f"Smg{name}": f"trtllm.TrtllmService/{name}"
    for name in ("Generate", "Abort", "GetModelInfo", "GetServerInfo", "GetTokenizer")
}
_REQUEST = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "max_tokens": "max_tokens",
    "n": "choice.count",
}
"""Fields of the protocol → their names in the conventions for GenAI."""
_FAILURES = frozenset(
    {
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNKNOWN,
    }
)
"""The codes that the conventions count as the server's failure; others are the caller's."""


def first_attributes(method: str, request_id: str) -> Attributes:
    """The attributes that are known when an RPC arrives."""
    return {
        "rpc.system.name": "grpc",
        "rpc.method": _METHODS.get(method, "_OTHER"),
        "lodestream.request_id": request_id,
    }


def trace_request(span: Span, message: generate_pb.GenerateRequest, names: Collection[str]) -> None:
    """Set what the caller set: numbers, and the model's name if it is one that is served."""
    given: dict[str, Any] = {
        field.name: value
        for options in (message.sampling, message.stopping, message.output)
        for field, value in options.ListFields()
        if field.name in _REQUEST
    }
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat" if message.WhichOneof("input") == "chat" else "text_completion",
        "gen_ai.provider.name": "lodestream",
        "gen_ai.request.model": message.model if message.model in names else None,
        **{f"gen_ai.request.{_REQUEST[name]}": value for name, value in given.items()},
    }
    span.set(attributes)


def trace_stages(span: Span, progress: Progress) -> None:
    """Add a child for each stage that a generation reached; one that was cut off ends now."""
    now = time.monotonic()
    admitted, first, last = progress.admitted, progress.first_token, progress.last_token
    span.add_stage("queue", progress.arrived, admitted or now)
    if admitted is not None:
        span.add_stage("prefill", admitted, first or now)
    if first is not None:
        span.add_stage("decode", first, last or first)


def end_span(span: Span, method: str, outcome: str, code: grpc.StatusCode, facts: dict[str, Any]) -> None:
    """End the span of an RPC.

    Args:
        span: the RPC's.
        method: its name in the log.
        outcome: as in the log.
        code: the status of gRPC.
        facts: of the log line.

    """
    finish = facts.get("finish")
    ttft = facts.get("ttft_ms")
    attributes: Attributes = {
        "rpc.response.status_code": code.name,
        "error.type": None if outcome == "ok" else outcome,
        "gen_ai.response.model": facts.get("model"),
        "gen_ai.response.finish_reasons": finish.split(",") if finish else None,
        "gen_ai.usage.input_tokens": facts.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": facts.get("completion_tokens"),
        "gen_ai.usage.cache_read.input_tokens": facts.get("cached_tokens"),
        "gen_ai.response.time_to_first_chunk": ttft / 1e3
        if facts.get("completion_tokens") and ttft
        else None,
    }
    span.end(_METHODS.get(method, method), attributes, outcome if code in _FAILURES else None)
