"""Sends generation requests to a service under test, whole and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from tests.support.calls import TIMEOUT_SECONDS, collect
from tests.support.service import MODEL_ID

HOT = pb.SamplingOptions(temperature=1.0, seed=7)
ECHO_TOOL = pb.Tool(
    name="echo",
    description="Says it again.",
    parameters='{"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}',
)
TIME_TOOL = pb.Tool(name="time")


class Generating(Protocol):
    """A service that answers generation requests."""

    @property
    def generate_stub(self) -> Any: ...


def spoken(text: str, *tools: pb.Tool, **fields: Any) -> generate_pb.GenerateRequest:
    """A conversation of one message; `fields` are of GenerateRequest, but for those of ChatInput."""
    own = {name: fields.pop(name) for name in ("tool_choice", "parallel_tool_calls") if name in fields}
    messages = [pb.ChatMessage(role=pb.ROLE_USER, content=text)]
    chat = pb.ChatInput(messages=messages, tools=tools, **own)
    return generate_pb.GenerateRequest(model=MODEL_ID, chat=chat, **{"sampling": HOT, **fields})


def batch(*prompts: str | Sequence[int], **fields: Any) -> generate_pb.GenerateRequest:
    """A request of several prompts: texts or token ids."""
    found = [
        pb.BatchPrompt(text=p) if isinstance(p, str) else pb.BatchPrompt(token_ids=pb.TokenIds(ids=p))
        for p in prompts
    ]
    given: dict[str, Any] = {"sampling": HOT, **fields}
    return generate_pb.GenerateRequest(model=MODEL_ID, batch=pb.BatchInput(prompts=found), **given)


async def both(service: Generating, request: generate_pb.GenerateRequest) -> generate_pb.GenerateResponse:
    """Request an answer whole and streamed. Both must be equal; return the whole answer."""
    answer, events = await asyncio.gather(
        _awaited(service.generate_stub.Generate(request, timeout=TIMEOUT_SECONDS)),
        asyncio.wait_for(collect(service.generate_stub.GenerateStream(request)), TIMEOUT_SECONDS),
    )
    _check_grammar(events, len(answer.choices))
    for choice in answer.choices:
        assert choice == _joined(events, choice.index)
    assert answer.usage == events[-1].summary.usage
    has_seed = request.sampling.HasField("seed")
    reports = [_lasting(report, has_seed) for report in (answer.report, events[-1].summary.report)]
    assert reports[0] == reports[1]
    return answer


async def _awaited(call: Any) -> generate_pb.GenerateResponse:
    answer: generate_pb.GenerateResponse = await call
    return answer


def _check_grammar(events: Sequence[generate_pb.GenerateStreamResponse], choices: int) -> None:
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "summary")
    assert (kinds.count("started"), kinds.count("summary"), kinds.count("finished")) == (1, 1, choices)
    over: set[int] = set()
    for event in events[1:-1]:
        index = (
            event.delta.choice_index if event.WhichOneof("event") == "delta" else event.finished.choice_index
        )
        assert index not in over, "something follows the finish"
        over |= {index} if event.WhichOneof("event") == "finished" else set()
    assert over == set(range(choices))


def _joined(events: Sequence[generate_pb.GenerateStreamResponse], index: int) -> generate_pb.Choice:
    deltas = [e.delta for e in events if e.WhichOneof("event") == "delta" and e.delta.choice_index == index]
    ends = [e.finished for e in events if e.WhichOneof("event") == "finished"]
    calls: list[pb.ToolCall] = []
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        if piece.id:
            calls.append(pb.ToolCall(id=piece.id, name=piece.name))
        calls[piece.index].arguments += piece.arguments
    return generate_pb.Choice(
        index=index,
        text="".join(delta.text for delta in deltas),
        token_ids=[token_id for delta in deltas for token_id in delta.token_ids],
        token_count=sum(delta.token_count for delta in deltas),
        finished=next(end for end in ends if end.choice_index == index),
        logprobs=[score for delta in deltas for score in delta.logprobs],
        tool_calls=calls,
    )


def _lasting(report: pb.Report, has_seed: bool) -> pb.Report:
    """A report without values that depend on timing, and without a seed that the service drew."""
    lasting = pb.Report()
    lasting.CopyFrom(report)
    lasting.ClearField("batch_size")
    lasting.ClearField("queue_estimate_ms")
    if not has_seed:
        lasting.sampling.ClearField("seed")
    return lasting
