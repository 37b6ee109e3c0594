"""The log has one line for each request, with everything except texts."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from lodestream.inference.v1 import generate_service_pb2_grpc as generate_grpc
from lodestream.inference.v1 import model_service_pb2 as model_pb
from structlog.testing import capture_logs

from lodestream_common.keys import KeyFile
from tests.support.calls import (
    TIMEOUT_SECONDS,
    ask,
    endless,
    eventually,
    first,
    is_free,
    read_stream,
    refusal,
)
from tests.support.service import Running, connect, running_service, service_config

Line = Mapping[str, Any]

EACH_TOKEN = grpc.aio.Metadata(("x-stream-interval", "0"))
"""Tokens are not gathered, however busy the loop is."""


@asynccontextmanager
async def logged(**settings: Any) -> AsyncIterator[tuple[Running, list[Line]]]:
    """A service and the log lines of its requests, which are complete when it is free."""
    lines: list[Line] = []
    with capture_logs() as captured:
        async with running_service(**settings) as service:
            yield service, lines
            await eventually(lambda: is_free(service))
        lines += [line for line in captured if line["event"] == "rpc"]


def id_of(request_id: str) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(("x-request-id", request_id))


async def test_a_request_is_one_line_with_counts_and_timings() -> None:
    async with logged() as (service, lines):
        stream = await read_stream(
            service.generate_stub.GenerateStream(ask("one two three"), metadata=id_of("r1"))
        )

    (line,) = lines
    assert line["log_level"] == "info"
    assert (line["request_id"], line["method"], line["outcome"]) == ("r1", "GenerateStream", "ok")
    assert (line["key"], line["model"]) == ("anonymous", stream.started.model)
    assert line["prompt_tokens"] == stream.started.prompt_tokens
    assert line["completion_tokens"] == stream.summary.usage.completion_tokens
    assert line["cached_tokens"] == 0
    assert line["finish"] == "end_of_sequence"
    parts = line["queue_ms"] + line["prefill_ms"] + line["decode_ms"]
    assert 0 <= parts <= line["total_ms"] + 0.5


async def test_a_log_line_names_the_key_without_its_secret(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    _, token = keys.create("alice")
    async with logged(keys_file=keys.path) as (service, lines):
        metadata = grpc.aio.Metadata(("authorization", f"Bearer {token}"))
        await service.generate_stub.Generate(ask(), metadata=metadata)
        await refusal(service.generate_stub.Generate(ask()))

    assert [(line["key"], line["outcome"]) for line in lines] == [
        ("alice", "ok"),
        (None, "invalid_api_key"),
    ]
    assert token not in str(lines)


async def test_the_caller_s_end_user_is_recorded() -> None:
    async with logged() as (service, lines):
        request = ask()
        request.user = "end-user-7"
        await service.generate_stub.Generate(request)

    assert lines[0]["user"] == "end-user-7"


async def test_every_outcome_has_a_name() -> None:
    async with logged(max_concurrency=1, queue_limit=0) as (service, lines):
        holder = service.generate_stub.GenerateStream(ask("@sim(stall_at=2)"), metadata=id_of("left"))
        await first(holder, 3)
        await refusal(service.generate_stub.Generate(ask(), metadata=id_of("queue")))
        holder.cancel()
        await eventually(lambda: is_free(service))
        for name, request in {
            "invalid": ask(max_tokens=0),
            "long": ask("hello " * 9000),
            "failed": ask("@sim(fail_at=1)"),
        }.items():
            await refusal(service.generate_stub.GenerateStream(request, metadata=id_of(name)))
        late = service.generate_stub.Generate(ask("@sim(stall_at=0)"), metadata=id_of("late"), timeout=2)
        await refusal(late)
        cut = service.generate_stub.Generate(ask("@sim(stall_at=2)"), metadata=id_of("cut"), timeout=2)
        await cut

    outcomes = {line["request_id"]: (line["outcome"], line.get("finish")) for line in lines}
    assert outcomes == {
        "left": ("cancelled", None),
        "queue": ("queue_full", None),
        "invalid": ("invalid_value", None),
        "long": ("context_length_exceeded", None),
        "failed": ("internal_error", None),
        "late": ("deadline_exceeded", None),
        "cut": ("ok", "deadline"),
    }
    assert len(lines) == len(outcomes)


async def test_the_line_of_a_cancelled_request_has_its_progress() -> None:
    async with logged() as (service, lines):
        stream = service.generate_stub.GenerateStream(ask("@sim(stall_at=4)"), metadata=EACH_TOKEN)
        await first(stream, 5)
        stream.cancel()

    assert lines[0]["completion_tokens"] == 4
    assert lines[0]["prompt_tokens"] > 4


async def test_calls_about_models_are_logged() -> None:
    async with logged() as (service, lines):
        await service.model_stub.ListModels(model_pb.ListModelsRequest())

    assert [(line["method"], line["outcome"]) for line in lines] == [("ListModels", "ok")]


PROGRAM = """
import json, sys
from inference_service.config import ServiceConfig
from inference_service.server import run
from lodestream_common import logs
settings = ServiceConfig(**json.loads(sys.argv[1]))
logs.configure(settings.log_level, settings.log_format, "service")
sys.exit(run(settings))
"""


@asynccontextmanager
async def process(**settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """The service in its own process, as the command line starts it."""
    config = service_config(**settings).model_dump_json()
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_prompts_and_answers_are_never_logged() -> None:
    """The test reads everything that a real process writes at the default level, tracebacks included."""
    secret = "xyzzy-plugh"
    async with process(log_format="json", shutdown_grace=0) as server:
        assert server.stderr is not None
        written = [await until(server.stderr, b"serving")]
        async with connect(json.loads(written[0].splitlines()[-1])["address"]) as channel:
            await _ask_about(secret, generate_grpc.GenerateServiceStub(channel))
        written.append(await until(server.stderr, b'"left"'))
        server.terminate()
        written += await asyncio.wait_for(server.communicate(), TIMEOUT_SECONDS)

    everything = b"".join(written).decode()
    assert secret not in everything
    lines = [json.loads(line) for line in everything.splitlines()]
    requests = {line["request_id"]: line["outcome"] for line in lines if line["event"] == "rpc"}
    assert requests == {
        "fine": "ok",
        "fails": "internal_error",
        "invalid": "invalid_value",
        "left": "cancelled",
    }
    (failure,) = [line for line in lines if line["event"] == "rpc_failed"]
    assert failure["request_id"] == "fails"
    assert "EngineRequestError" in failure["exception"]


async def _ask_about(secret: str, stub: generate_grpc.GenerateServiceAsyncStub) -> None:
    answer = await stub.Generate(
        ask(secret, stop=["never met"]), metadata=id_of("fine"), timeout=TIMEOUT_SECONDS
    )
    assert secret in answer.choices[0].text
    failing = ask(f"{secret} @sim(fail_at=3)", stop=[secret * 9])
    await refusal(stub.GenerateStream(failing, metadata=id_of("fails")))
    await refusal(stub.Generate(ask(secret, max_tokens=0, stop=[secret]), metadata=id_of("invalid")))
    left = stub.GenerateStream(endless(f"{secret} @sim(stall_at=9)"), metadata=id_of("left") + EACH_TOKEN)
    await first(left, 5)
    left.cancel()


async def until(stream: asyncio.StreamReader, word: bytes) -> bytes:
    """Read lines up to the first one with `word`."""
    read = b""
    while word not in read:
        line = await asyncio.wait_for(stream.readline(), 30)
        assert line, "the service ended"
        read += line
    return read
