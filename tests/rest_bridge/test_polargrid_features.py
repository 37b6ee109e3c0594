"""The API's own SDK, for features beside plain text."""

from __future__ import annotations

from typing import Any

import polargrid
import pytest
from google.protobuf.json_format import MessageToDict
from lodestream.inference.v1 import generation_pb2 as pb

from tests.rest_bridge.running import RunningBridge
from tests.support.scripted import (
    REPORT,
    Running,
    answering,
    call_delta,
    finished,
    script,
    started,
    summary,
    whole_answer,
)

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def client(bridge: RunningBridge) -> polargrid.PolarGrid:
    return polargrid.PolarGrid(api_key="pg_any", base_url=bridge.url)


async def test_metadata(client: polargrid.PolarGrid, running: Running) -> None:
    """Everything that the SDK reads is there, for chats and completions."""
    whole = whole_answer()
    whole.report.CopyFrom(REPORT)
    running.service.answer = answering(whole)
    replies = [await client.chat_completion(REQUEST), await client.completion({"model": "m", "prompt": "x"})]

    for reply in replies:
        metadata = reply.pg_metadata
        assert (metadata.region, metadata.model_load_time_ms) == ("local", 0)
        assert (metadata.queue_time_ms, metadata.inference_time_ms) == (1, 5)
        assert metadata.latency_ms >= 6


async def test_a_conversation_with_tools(client: polargrid.PolarGrid, running: Running) -> None:
    """The SDK parses a call into its own type, and the history with it is accepted."""
    whole = whole_answer("")
    whole.choices[0].tool_calls.add(id="call_1", name="f", arguments="{}")
    whole.choices[0].finished.reason = pb.FINISH_REASON_TOOL_CALLS
    running.service.answer = answering(whole)
    reply = await client.chat_completion({**REQUEST, "tools": [TOOL], "tool_choice": "required"})
    message = reply.choices[0].message
    history = [
        *REQUEST["messages"],
        {"role": "assistant", "tool_calls": [message.tool_calls[0].model_dump()]},
        {"role": "tool", "tool_call_id": "call_1", "content": "ok"},
    ]
    await client.chat_completion({"model": "m", "messages": history, "tools": [TOOL]})

    assert (message.content, message.tool_calls[0].function.name) == (None, "f")
    sent = MessageToDict(running.service.seen[-1].request, preserving_proto_field_name=True)
    assert sent["chat"]["messages"][1]["tool_calls"] == [{"id": "call_1", "name": "f", "arguments": "{}"}]


async def test_tool_calls_in_a_stream(client: polargrid.PolarGrid, running: Running) -> None:
    """Every chunk is one that it can read."""
    ended = finished(0, pb.FINISH_REASON_TOOL_CALLS, pb.STOP_CAUSE_END_OF_SEQUENCE)
    running.service.stream = script(
        started(), call_delta(id="call_1", name="f"), call_delta(arguments="{}"), ended, summary()
    )
    chunks = [chunk async for chunk in client.chat_completion_stream({**REQUEST, "tools": [TOOL]})]
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]

    assert [piece.function["arguments"] for piece in pieces] == ["", "{}"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_schema(client: polargrid.PolarGrid, running: Running) -> None:
    """The SDK's response format has no name."""
    schema = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    await client.chat_completion({**REQUEST, "response_format": schema})

    assert running.service.seen[0].request.constraint.json_schema == '{"type":"object"}'
