"""Sends arbitrary REST bodies, and their messages, over both transports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_client import InferenceError
from tests.support.answers import join_chunks, read_error, read_generation, read_refusal, read_reply
from tests.support.comparable_answer import Answer
from tests.support.transports import Transports

TIMEOUT_SECONDS = 30.0
"""Seconds after which a request is treated as hanging."""
PATHS = {"ChatCompletionRequest": "/v1/chat/completions", "CompletionRequest": "/v1/completions"}
WHOLE = {"return_token_ids": True, "stream": False, "stream_options": {"include_usage": True}}
STREAMED = {**WHOLE, "stream": True}
"""The options with which an answer holds everything that can be compared."""

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply over REST."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def is_stream(self) -> bool:
        return self.headers["content-type"].startswith("text/event-stream")

    def answer(self, request: Body) -> Answer:
        """Read the answer to a request with the options of WHOLE or STREAMED."""
        if self.status != 200:
            return read_refusal(json.loads(self.text))
        if not self.is_stream:
            return read_reply(json.loads(self.text), request)
        lines = [line for line in self.text.split("\n") if line]
        return join_chunks(lines, request)


async def post(http: httpx.AsyncClient, path: str, text: str | bytes) -> Reply:
    """Send a body unchanged."""
    content = text.encode() if isinstance(text, str) else text
    call = http.post(path, content=content, headers={"content-type": "application/json"})
    reply = await asyncio.wait_for(call, TIMEOUT_SECONDS)
    return Reply(reply.status_code, reply.headers, reply.text)


async def call(transports: Transports, message: GenerateRequest, request: Body) -> Answer:
    """Request a whole answer over gRPC."""
    try:
        generation = await asyncio.wait_for(transports.client.generate_request(message), TIMEOUT_SECONDS)
    except InferenceError as error:
        return read_error(error)
    return read_generation(generation, request)


async def call_stream(transports: Transports, message: GenerateRequest, request: Body) -> Answer:
    """Request a stream over gRPC and join it."""
    try:
        generation = await asyncio.wait_for(
            transports.client.stream_request(message).collect(), TIMEOUT_SECONDS
        )
    except InferenceError as error:
        return read_error(error)
    return read_generation(generation, request)


def comparable(answer: Answer, request: Body) -> Answer:
    """An answer without the values that differ between runs, and without the names of ignored parameters.

    Tool calls lose their ids if the request has no seed, since ids derive from the seed.
    """
    if "seed" in request:
        return replace(answer, ignored=frozenset())
    choices = []
    for choice in answer.choices:
        calls = tuple(("", name, arguments) for _, name, arguments in choice.tool_calls)
        assert len({call[0] for call in choice.tool_calls}) == len(calls)
        choices.append(replace(choice, tool_calls=calls))
    return replace(answer, choices=tuple(choices), ignored=frozenset())


async def all_of(jobs: Sequence[Any], at_once: int) -> list[Any]:
    """Run jobs, at most `at_once` at a time. Return their results in order."""
    gate = asyncio.Semaphore(at_once)

    async def run(job: Any) -> Any:
        async with gate:
            return await job

    return await asyncio.gather(*(run(job) for job in jobs))
