"""Both doors of one service, asked alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from google.protobuf.json_format import ParseDict
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_client import AsyncClient, InferenceError
from rest_bridge.config import BridgeConfig
from rest_bridge.serve import make_server
from tests.support.service import Running, running_service

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "seed",
)
_STOPPING = ("max_tokens", "stop", "stop_token_ids", "ignore_eos")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller learns, the same at both doors."""

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    usage: tuple[int, int] | None = None
    """Prompt and completion tokens."""
    error: str | None = None
    """The code of the refusal."""
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Callers:
    """One caller at each door."""

    client: AsyncClient
    http: httpx.AsyncClient

    async def by_grpc(self, request: Mapping[str, Any]) -> Answer:
        """Ask over gRPC for what a REST body says."""
        try:
            generation = await self.client.generate_request(grpc_request(request))
        except InferenceError as error:
            return Answer(error=error.code, param=getattr(error, "param", None))
        choice = generation.choices[0]
        usage = (generation.usage.prompt_tokens, generation.usage.completion_tokens)
        return Answer(choice.text, tuple(choice.token_ids), choice.finish_reason.value, usage)

    async def by_rest(self, request: Mapping[str, Any]) -> Answer:
        """Ask over REST, for the whole answer at once."""
        reply = await self.http.post(self.path(request), json={**request, "return_token_ids": True})
        body = reply.json()
        if reply.status_code != 200:
            return Answer(error=body["error"]["code"], param=body["error"]["param"])
        choice = body["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return Answer(text, tuple(choice["token_ids"]), choice["finish_reason"], _usage(body["usage"]))

    async def by_stream(self, request: Mapping[str, Any]) -> Answer:
        """Ask over REST, for a stream, and join it."""
        options = {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
        async with self.http.stream("POST", self.path(request), json={**request, **options}) as reply:
            if reply.status_code != 200:
                error = json.loads(await reply.aread())["error"]
                return Answer(error=error["code"], param=error["param"])
            return _join([line async for line in reply.aiter_lines() if line])

    @staticmethod
    def path(request: Mapping[str, Any]) -> str:
        return "/v1/chat/completions" if "messages" in request else "/v1/completions"


@dataclass(frozen=True, slots=True)
class Doors(Callers):
    """A service and a bridge before it, in this process."""

    service: Running
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


def _join(lines: list[str]) -> Answer:
    assert lines[-1] == "data: [DONE]", lines[-1]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(c["delta"].get("content", "") if "delta" in c else c["text"] for c in choices)
    ids = tuple(token_id for choice in choices for token_id in choice.get("token_ids", ()))
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    assert len(reasons) == 1, reasons
    return Answer(text, ids, reasons[0], _usage(chunks[-1]["usage"]))


def _usage(usage: Mapping[str, int]) -> tuple[int, int]:
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def grpc_request(body: Mapping[str, Any]) -> GenerateRequest:
    """The message that says what a REST body says, made without the bridge."""
    message: dict[str, Any] = {
        "model": body.get("model", ""),
        "sampling": {name: body[name] for name in _SAMPLING if name in body},
        "stopping": {name: body[name] for name in _STOPPING if name in body},
    }
    if isinstance(message["stopping"].get("stop"), str):
        message["stopping"]["stop"] = [message["stopping"]["stop"]]
    if "messages" in body:
        message["chat"] = {"messages": [_turn(turn) for turn in body["messages"]]}
    elif isinstance(body.get("prompt"), list):
        message["token_ids"] = {"ids": body["prompt"]}
    elif "prompt" in body:
        message["prompt"] = body["prompt"]
    if "user" in body:
        message["user"] = body["user"]
    return ParseDict(message, GenerateRequest())


def _turn(turn: Mapping[str, str]) -> dict[str, str]:
    return {"role": f"ROLE_{turn['role'].upper()}", "content": turn["content"]}


@asynccontextmanager
async def running_doors(bridge: Mapping[str, Any] | None = None, **service: Any) -> AsyncIterator[Doors]:
    """Serve both until the context ends. Arguments are fields of BridgeConfig and of ServiceConfig."""
    async with running_service(**service) as running:
        keys_file = running.server.config.keys_file
        config = BridgeConfig(grpc_address=running.address, keys_file=keys_file, **(bridge or {}))
        async with (
            serving_bridge(config) as url,
            AsyncClient(running.address, retries=0) as client,
            httpx.AsyncClient(base_url=url, timeout=60) as http,
        ):
            yield Doors(client, http, running, url)


@asynccontextmanager
async def serving_bridge(config: BridgeConfig) -> AsyncIterator[str]:
    """Serve a bridge on a port of the system's choice; its URL."""
    server = make_server(config.model_copy(update={"http_address": "127.0.0.1:0"}), lambda _: None)
    serving = asyncio.create_task(server._serve(sockets=[server.socket]))
    try:
        while not server.started:
            assert not serving.done(), "the bridge did not start"
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
