from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from lodestream.inference.v1.generation_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_TOOL_CALLS

from inference_client import AsyncClient, Client
from tests.support.scripted import Request, Response, Running, answering, logprob, whole_answer

EVERY = ["grpc_async.py", "grpc_sync.py", "grpc_tools.py", "grpc_schema.py"]
EXAMPLES = Path(__file__).parents[2] / "examples"


async def _run(name: str, *arguments: str, **variables: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | variables,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("name", ["grpc_async.py", "grpc_sync.py"])
async def test_an_example_runs(running: Running, name: str) -> None:
    """It uses the address on its command line and the key of its environment."""
    code, out, err = await _run(name, running.target, LODESTREAM_API_KEY="pg_x")

    assert (code, "Hello" in out, "Traceback" in err) == (0, True, False), err
    assert {seen.metadata["authorization"] for seen in running.service.seen} == {"Bearer pg_x"}


async def test_the_example_of_tools_answers_the_call(running: Running) -> None:
    """It answers the demanded call and prints the following text."""

    async def answer(request: Request, context: Any) -> Response:
        if len(request.chat.messages) > 1:
            return whole_answer(f"It is so: {request.chat.messages[2].content}")
        response = whole_answer("")
        name = request.chat.tool_choice.name
        response.choices[0].tool_calls.add(id="c1", name=name, arguments='{"city": "Paris"}')
        response.choices[0].finished.reason = FINISH_REASON_TOOL_CALLS
        return response

    running.service.answer = answer
    code, out, err = await _run("grpc_tools.py", running.target)

    assert code == 0, err
    assert out.splitlines() == [
        'get_weather({"city": "Paris"}): Sunny in Paris, 22 degrees.',
        "It is so: Sunny in Paris, 22 degrees.",
    ]
    assert running.service.seen[2].request.chat.messages[2].tool_call_id == "c1"


async def test_the_example_of_a_schema_shows_the_document(running: Running) -> None:
    response = whole_answer('{"city":"Paris","continent":"Europe"}')
    response.choices[0].logprobs.append(logprob("Paris"))
    running.service.answer = answering(response)
    code, out, err = await _run("grpc_schema.py", running.target)

    assert code == 0, err
    assert out.splitlines() == ["{'city': 'Paris', 'continent': 'Europe'}", " 60.65% 'Paris'"]
    assert running.service.seen[1].request.constraint.json_schema.startswith('{"type":"object"')


@pytest.mark.parametrize("name", ["grpc_tools.py", "grpc_schema.py"])
async def test_an_example_prints_no_partial_answer(running: Running, name: str) -> None:
    response = whole_answer('{"city":')
    response.choices[0].finished.reason = FINISH_REASON_LENGTH
    running.service.answer = answering(response)
    code, out, err = await _run(name, running.target)

    assert (code, out) == (1, "")
    assert "length." in err


async def test_the_environment_sets_the_address_and_the_key(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `from_environment` of both clients an argument overrides a variable."""
    monkeypatch.setenv("LODESTREAM_TARGET", running.target)
    monkeypatch.setenv("LODESTREAM_API_KEY", "pg_mine")
    async with AsyncClient.from_environment(timeout=30) as client:
        await client.list_models()
    monkeypatch.setenv("LODESTREAM_TARGET", "127.0.0.1:1")
    with Client.from_environment(running.target) as blocking:
        await asyncio.to_thread(blocking.list_models)

    assert [seen.metadata["authorization"] for seen in running.service.seen] == ["Bearer pg_mine"] * 2


@pytest.mark.parametrize("name", EVERY)
async def test_an_example_without_a_service_prints_an_error(name: str) -> None:
    code, _, err = await _run(name, LODESTREAM_TARGET="127.0.0.1:1")

    assert code == 1
    assert "UnavailableError: The service is not reachable" in err
    assert "Traceback" not in err
