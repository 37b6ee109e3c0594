"""OpenAI's own SDK and its helpers, for features beside plain text."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from google.protobuf.json_format import MessageToDict
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1.generate_service_pb2 import Choice
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.rest_bridge.running import RunningBridge
from tests.support.scripted import (
    Running,
    ScriptedService,
    answering,
    call_delta,
    delta,
    finished,
    logprob,
    script,
    started,
    summary,
    whole_answer,
)

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALLED = finished(0, pb.FINISH_REASON_TOOL_CALLS, pb.STOP_CAUSE_END_OF_SEQUENCE)


class City(BaseModel):
    """The type of parsed replies."""

    name: str
    people: int


@pytest.fixture
async def client(bridge: RunningBridge) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{bridge.url}/v1", api_key="pg_any", max_retries=0) as client:
        yield client


def sent(running: Running) -> dict[str, Any]:
    """The last request that the service received."""
    found: dict[str, Any] = MessageToDict(running.service.seen[-1].request, preserving_proto_field_name=True)
    return found


async def test_several_choices(client: openai.AsyncOpenAI, service: ScriptedService) -> None:
    """They arrive whole, and from a stream that the SDK joins."""
    whole = whole_answer()
    whole.choices.append(Choice(index=1, text="two", finished=finished(1).finished))
    service.answer = answering(whole)
    service.stream = script(
        started(), delta("t", 1), delta("Hello"), delta("wo", 1), finished(1), finished(), summary()
    )
    reply = await client.chat.completions.create(model="m", messages=MESSAGES, n=2)
    async with client.chat.completions.stream(model="m", messages=MESSAGES, n=2) as stream:
        folded = await stream.get_final_completion()

    for found in (reply, folded):
        assert {c.index: c.message.content for c in found.choices} == {0: "Hello", 1: "two"}
        assert all(choice.finish_reason == "stop" for choice in found.choices)


async def test_log_probabilities(client: openai.AsyncOpenAI, running: Running) -> None:
    """The SDK's own model accepts the reply strictly, and the joined stream is equal."""
    tokens = [logprob("a", "ab"), logprob("b", "cd")]
    whole = whole_answer("ab")
    whole.choices[0].logprobs.extend(tokens)
    running.service.answer = answering(whole)
    deltas = [delta(t.token, ids=[t.token_id], logprobs=[t]) for t in tokens]
    running.service.stream = script(started(), *deltas, finished(), summary())
    raw = await client.chat.completions.with_raw_response.create(
        model="m", messages=MESSAGES, logprobs=True, top_logprobs=2, logit_bias={"5": -100}
    )
    reply = ChatCompletion.model_validate_json(raw.text, strict=True)
    async with client.chat.completions.stream(model="m", messages=MESSAGES, logprobs=True) as stream:
        folded = await stream.get_final_completion()

    assert running.service.seen[0].request.sampling.logit_bias == {5: -100.0}
    for found in (reply, folded):
        logprobs = found.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert [entry.token for entry in logprobs.content] == ["a", "b"]
        assert [top.token for top in logprobs.content[0].top_logprobs] == ["a", "b"]


async def test_parsed_replies(client: openai.AsyncOpenAI, running: Running) -> None:
    """The SDK sends the schema of a model and parses the reply into it, also from a stream."""
    text = '{"name":"Bonn","people":330000}'
    running.service.answer = answering(whole_answer(text))
    running.service.stream = script(started(), delta(text[:9]), delta(text[9:]), finished(), summary())
    reply = await client.chat.completions.parse(model="m", messages=MESSAGES, response_format=City)
    schema = json.loads(sent(running)["constraint"]["json_schema"])
    async with client.chat.completions.stream(model="m", messages=MESSAGES, response_format=City) as stream:
        folded = await stream.get_final_completion()

    assert schema["required"] == ["name", "people"]
    assert reply.choices[0].message.parsed == City(name="Bonn", people=330000)
    assert folded.choices[0].message.parsed == City(name="Bonn", people=330000)


async def test_tool_calls_are_events_of_a_stream(
    client: openai.AsyncOpenAI, service: ScriptedService
) -> None:
    """The helper emits events for arguments, and for each complete call."""
    deltas = [
        call_delta(id="call_1", name="weather"),
        call_delta(arguments='{"city":'),
        call_delta(arguments='"Bonn"}'),
        call_delta(1, id="call_2", name="weather"),
        call_delta(1, arguments="{}"),
    ]
    service.stream = script(started(), *deltas, CALLED, summary())
    async with client.chat.completions.stream(model="m", messages=MESSAGES, tools=TOOLS) as stream:
        events = [event async for event in stream]
        folded = await stream.get_final_completion()

    new = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [event.arguments_delta for event in new] == ["", '{"city":', '"Bonn"}', "", "{}"]
    assert [(event.name, event.arguments) for event in done] == [
        ("weather", '{"city":"Bonn"}'),
        ("weather", "{}"),
    ]
    message = folded.choices[0].message
    assert (message.content, folded.choices[0].finish_reason) == (None, "tool_calls")
    assert message.tool_calls is not None
    assert [(call.id, call.type) for call in message.tool_calls] == [
        ("call_1", "function"),
        ("call_2", "function"),
    ]


async def test_a_conversation_with_tools(client: openai.AsyncOpenAI, running: Running) -> None:
    """The SDK's message with the call is sent back, followed by the result."""
    whole = whole_answer("")
    whole.choices[0].tool_calls.add(id="call_1", name="weather", arguments='{"city":"Bonn"}')
    whole.choices[0].finished.reason = pb.FINISH_REASON_TOOL_CALLS
    running.service.answer = answering(whole)
    first = await client.chat.completions.create(
        model="m", messages=MESSAGES, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    )
    running.service.answer = answering(whole_answer("Rain."))
    history: list[Any] = [*MESSAGES, first.choices[0].message]
    history.append({"role": "tool", "tool_call_id": "call_1", "content": "rain"})
    second = await client.chat.completions.create(model="m", messages=history, tools=TOOLS)

    assert first.choices[0].message.content is None
    assert second.choices[0].message.content == "Rain."
    assert sent(running)["chat"]["messages"][1:] == [
        {
            "role": "ROLE_ASSISTANT",
            "tool_calls": [{"id": "call_1", "name": "weather", "arguments": '{"city":"Bonn"}'}],
        },
        {"role": "ROLE_TOOL", "content": "rain", "tool_call_id": "call_1"},
    ]


async def test_parsed_calls(client: openai.AsyncOpenAI, running: Running) -> None:
    """The function is described by a model."""
    whole = whole_answer("")
    whole.choices[0].tool_calls.add(id="call_1", name="City", arguments='{"name":"Bonn","people":1}')
    whole.choices[0].finished.reason = pb.FINISH_REASON_TOOL_CALLS
    running.service.answer = answering(whole)
    tool = openai.pydantic_function_tool(City)
    reply = await client.chat.completions.parse(
        model="m",
        messages=MESSAGES,
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "City"}},
    )

    assert sent(running)["chat"]["tool_choice"] == {"mode": "TOOL_CHOICE_MODE_NAMED", "name": "City"}
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == City(name="Bonn", people=1)


async def test_completions(client: openai.AsyncOpenAI, running: Running) -> None:
    """They have several prompts, log probabilities and an echo."""
    whole = whole_answer("ab")
    whole.choices[0].logprobs.extend([logprob("a", "ab"), logprob("b", "cd")])
    whole.choices.append(Choice(index=1, text="two", finished=finished(1).finished))
    running.service.answer = answering(whole)
    reply = await client.completions.create(model="m", prompt=["x", "y"], logprobs=2)
    logprobs = reply.choices[0].logprobs
    running.service.answer = answering(whole_answer("x Hello"))
    echoed = await client.completions.create(model="m", prompt="x", echo=True)

    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (["a", "b"], [0, 1])
    assert logprobs.top_logprobs == [{"a": -1.5, "b": -1.5}, {"c": -1.5, "d": -1.5, "b": -0.5}]
    assert [choice.text for choice in reply.choices] == ["ab", "two"]
    assert echoed.choices[0].text == "x Hello"
    assert sent(running)["output"] == {"echo": True}
