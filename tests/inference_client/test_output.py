from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lodestream.inference.v1 import generate_service_pb2, generation_pb2

from inference_client import (
    AsyncClient,
    Delta,
    EffectiveSampling,
    Event,
    Finished,
    FinishReason,
    Message,
    ProtocolError,
    Report,
    Started,
    StopCause,
    Summary,
    Timings,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from inference_client.events import GenerationFold
from tests.inference_client.conftest import Caller
from tests.support.scripted import (
    HELLO,
    REPORT,
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

EFFECTIVE = EffectiveSampling(0.1, 0.2, 3, 0.4, 0.5, 0.6, 0.7, -8, {9: -100.0})
EXPLAINED = Report(("field 99",), EFFECTIVE, 10, 11, 12.5)
ASKED: dict[str, Any] = {"model": "m", "messages": [Message("user", "u")]}


def _deltas(events: list[Event]) -> list[Delta]:
    return [event for event in events if isinstance(event, Delta)]


async def test_every_token_has_log_probabilities(caller: Caller, service: ScriptedService) -> None:
    """This holds also for several tokens in one delta."""
    both = [logprob("a", top=["a", "ü"]), logprob("ü")]
    service.stream = script(
        started(), delta("aü", ids=(97, 252), logprobs=both), delta("b"), finished(), summary()
    )
    first, second = _deltas(await caller.events(model="m", prompt="p", logprobs=True, top_logprobs=2))

    top = (TokenLogprob(97, "a", b"", -1.5), TokenLogprob(252, "ü", b"", -1.5))
    assert first.logprobs == (
        TokenLogprob(97, "a", b"a", -0.5, top),
        TokenLogprob(252, "ü", "ü".encode(), -0.5),
    )
    assert (second.logprobs, second.tool_calls) == ((), ())


async def test_pieces_of_tool_calls_arrive_unchanged(caller: Caller, service: ScriptedService) -> None:
    service.stream = script(
        started(),
        call_delta(id="c1", name="f"),
        call_delta(arguments="{}"),
        finished(reason=4, cause=7),
        summary(),
    )
    events = await caller.events(**ASKED, tools=[Tool("f")])
    first, second = _deltas(events)

    assert first.tool_calls == (ToolCallDelta(0, "c1", "f", ""),)
    assert second.tool_calls == (ToolCallDelta(0, None, None, "{}"),)
    assert events[3] == Finished(0, FinishReason.TOOL_CALLS, StopCause.TOOL_CALLS)


async def test_the_content_filter_names_its_rule(caller: Caller, service: ScriptedService) -> None:
    service.stream = script(started(), finished(reason=3, cause=6, filter_rule="r1"), summary())
    end = (await caller.events(model="m", prompt="p"))[1]

    assert end == Finished(0, FinishReason.CONTENT_FILTER, StopCause.CONTENT_FILTER, filter_rule="r1")


async def test_the_report_has_every_option(caller: Caller, service: ScriptedService) -> None:
    service.stream = script(*HELLO[:-1], summary(REPORT))
    response = whole_answer()
    response.report.CopyFrom(REPORT)
    service.answer = answering(response)

    end = (await caller.events(model="m", prompt="p"))[-1]
    assert isinstance(end, Summary)
    assert end.report == EXPLAINED
    assert (await caller.call("generate", model="m", prompt="p")).report == EXPLAINED


def test_the_report_has_every_option_of_the_protocol() -> None:
    options = set(generation_pb2.SamplingOptions.DESCRIPTOR.fields_by_name)

    assert options == set(EffectiveSampling.__dataclass_fields__)


async def test_without_a_report_from_the_service_all_values_are_zero(caller: Caller) -> None:
    assert (await caller.call("generate", model="m", prompt="p")).report == Report()


async def test_a_collected_stream_equals_the_whole_answer(caller: Caller, service: ScriptedService) -> None:
    """There are two choices: a text with log probabilities, and two calls of which one was cut short."""
    calls = [
        generation_pb2.ToolCall(id="c1", name="f", arguments='{"a":1}'),
        generation_pb2.ToolCall(id="c2", name="g", arguments='{"b'),
    ]
    end = summary(REPORT).summary
    service.answer = answering(
        generate_service_pb2.GenerateResponse(
            request_id="server-id",
            model="m",
            created=7,
            choices=[
                generate_service_pb2.Choice(
                    text="ab",
                    token_ids=[1, 2],
                    token_count=2,
                    finished=finished().finished,
                    logprobs=[logprob("a", top="ax"), logprob("b")],
                ),
                generate_service_pb2.Choice(
                    index=1, token_count=0, finished=finished(1, 2, 4).finished, tool_calls=calls
                ),
            ],
            usage=end.usage,
            timings=end.timings,
            report=REPORT,
        )
    )
    service.stream = script(
        started(),
        delta("a", logprobs=[logprob("a", top="ax")]),
        delta("", 1, (), tool_calls=[{"id": "c1", "name": "f", "arguments": '{"a"'}]),
        delta("", 1, (), tool_calls=[{"arguments": ":1}"}, {"index": 1, "id": "c2", "name": "g"}]),
        delta("b", ids=(2,), logprobs=[logprob("b")]),
        finished(),
        delta("", 1, (), tool_calls=[{"index": 1, "arguments": '{"b'}]),
        finished(1, 2, 4),
        summary(REPORT),
    )
    whole = await caller.call("generate", **ASKED, n=2)
    fold = GenerationFold()
    for event in await caller.events(**ASKED, n=2):
        fold.add(event)

    assert fold.result() == whole
    assert whole.choices[1].tool_calls == (ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "g", '{"b'))
    assert [entry.token for entry in whole.choices[0].logprobs] == ["a", "b"]
    assert (whole.tool_calls, whole.choices[1].text) == ((), "")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text(max_size=4), max_size=4), max_size=3), st.randoms())
def test_pieces_of_arguments_are_joined_for_any_cut_and_interleaving(
    calls: list[list[str]], order: Any
) -> None:
    queues = [
        [
            ToolCallDelta(index, str(index), "f", ""),
            *(ToolCallDelta(index, None, None, piece) for piece in pieces),
        ]
        for index, pieces in enumerate(calls)
    ]
    events: list[Event] = [Started("r", "m", 7, 1)]
    while any(queues):
        piece = order.choice([queue for queue in queues if queue]).pop(0)
        events.append(Delta(0, "", (), 0, (), (piece,)))
    events += [Finished(0, FinishReason.TOOL_CALLS, StopCause.TOOL_CALLS)]
    events += [Summary(Usage(1, 1, 0), Timings(0.0, 0.0, 0.0, 0.0))]
    fold = GenerationFold()
    for event in events:
        fold.add(event)

    expected = [ToolCall(str(index), "f", "".join(pieces)) for index, pieces in enumerate(calls)]
    assert list(fold.result().tool_calls) == expected


async def test_an_answers_message_continues_the_conversation(
    client: AsyncClient, service: ScriptedService
) -> None:
    response = whole_answer("")
    response.choices[0].tool_calls.add(id="c1", name="f", arguments="{}")
    service.answer = answering(response)
    answer = await client.generate(**ASKED, tools=[Tool("f")])
    messages = [*ASKED["messages"], answer.choices[0].message, Message("tool", "22", tool_call_id="c1")]
    await client.generate(model="m", messages=messages, tools=[Tool("f")])

    _, called, result = service.seen[1].request.chat.messages
    assert (called.role, called.content, called.tool_calls[0].id) == (3, "", "c1")
    assert (result.role, result.content, result.tool_call_id) == (4, "22", "c1")


@pytest.mark.parametrize(
    ("indexes", "options"),
    [
        ([0], {"n": 2}),
        ([0, 1], {}),
        ([1], {}),
        ([0, 0], {"n": 2}),
        ([1, 0], {"n": 2}),
        ([0], {"prompt": ["p", "q"]}),
    ],
)
async def test_an_answer_has_the_choices_that_were_asked_for(
    caller: Caller, service: ScriptedService, indexes: list[int], options: dict[str, Any]
) -> None:
    response = whole_answer()
    choice = response.choices.pop()
    for index in indexes:
        choice.index = index
        response.choices.append(choice)
    service.answer = answering(response)

    with pytest.raises(ProtocolError, match="the request wants"):
        await caller.call("generate", **{"model": "m", "prompt": "p"} | options)
