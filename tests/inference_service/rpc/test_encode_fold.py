"""The whole answer equals its joined stream, for random streams."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.backends.types import Sampling
from inference_service.output.events import (
    Delta,
    Event,
    Finished,
    Report,
    ScoredToken,
    Started,
    StopCause,
    Summary,
    Timings,
    Usage,
)
from inference_service.prompt.conversation import ToolCallDelta
from inference_service.rpc.encode import ResponseFold, stream_response
from tests.support.texts import THOROUGH

CHOICES = 3
STARTED = Started("req-1", "m", 1_700_000_000, 27)
SAMPLING = Sampling(0.5, 0.9, 0, 0.0, 0.0, 0.0, 1.0, seed=1, reproducible=True)
SUMMARY = Summary(Usage(27, 8, 3), Timings(1.5, 20.25, 300.0, 21.75), Report(SAMPLING, {}, 150))

texts = st.text(max_size=4)
tokens = st.builds(ScoredToken, st.integers(0, 99), texts, st.binary(max_size=3), st.floats(-20, 0))
scores = st.builds(
    lambda token, top: ScoredToken(token.token_id, token.text, token.raw, token.logprob, top),
    tokens,
    st.lists(tokens, max_size=2),
)


@st.composite
def random_events(draw: st.DrawFn) -> list[Event]:
    """Interleaved deltas and ends of several choices; a tool call starts before its further pieces."""
    calls = dict.fromkeys(range(CHOICES), 0)
    events: list[Event] = []
    for index in draw(st.lists(st.integers(0, CHOICES - 1), max_size=15)):
        pieces = []
        for _ in range(draw(st.integers(0, 2))):
            if not calls[index] or draw(st.booleans()):
                calls[index] += 1
                pieces.append(ToolCallDelta(calls[index] - 1, f"id{calls[index]}", "f", draw(texts)))
            else:
                pieces.append(ToolCallDelta(calls[index] - 1, None, None, draw(texts)))
        scored = draw(st.lists(scores, max_size=3))
        ids = [score.token_id for score in scored]
        events.append(Delta(index, draw(texts), ids, len(ids) + draw(st.integers(0, 1)), scored, pieces))
    causes = draw(st.permutations(list(StopCause)))
    return events + [Finished(index, causes[index]) for index in draw(st.permutations(range(CHOICES)))]


@THOROUGH
@given(events=random_events())
def test_the_whole_answer_equals_the_joined_stream(events: Sequence[Event]) -> None:
    whole = [STARTED, *events, SUMMARY]
    folded = ResponseFold()
    for event in whole:
        folded.add(event)

    assert folded.response() == joined([stream_response(event) for event in whole])


def joined(messages: Sequence[generate_pb.GenerateStreamResponse]) -> generate_pb.GenerateResponse:
    """Join a stream to a whole answer, as a caller does."""
    started, summary = messages[0].started, messages[-1].summary
    return generate_pb.GenerateResponse(
        request_id=started.request_id,
        model=started.model,
        created=started.created,
        choices=[_choice(messages, index) for index in range(CHOICES)],
        usage=summary.usage,
        timings=summary.timings,
        report=summary.report,
    )


def _choice(messages: Sequence[generate_pb.GenerateStreamResponse], index: int) -> generate_pb.Choice:
    deltas = [m.delta for m in messages if m.HasField("delta") and m.delta.choice_index == index]
    ends = [m.finished for m in messages if m.HasField("finished") and m.finished.choice_index == index]
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
        finished=ends[0],
        logprobs=[score for delta in deltas for score in delta.logprobs],
        tool_calls=calls,
    )


def test_a_log_probability_is_encoded() -> None:
    """Invalid UTF-8 is sent as bytes, and alternatives have no alternatives."""
    half = ScoredToken(7, "\ufffd", b"\xf0\x9f", -0.5, [ScoredToken(8, "a", b"a", -1.5)])

    message = stream_response(Delta(0, "", [7], 1, [half])).delta

    assert list(message.logprobs) == [
        pb.TokenLogprob(
            token_id=7,
            token="\ufffd",
            bytes=b"\xf0\x9f",
            logprob=-0.5,
            top=[pb.TokenLogprob(token_id=8, token="a", bytes=b"a", logprob=-1.5)],
        )
    ]


def test_a_call_that_was_cut_short_is_in_the_answer() -> None:
    pieces = [ToolCallDelta(0, "id", "f", ""), ToolCallDelta(0, None, None, '{"a')]
    folded = ResponseFold()
    for event in (Delta(0, "", (), 0, (), pieces), Finished(0, StopCause.MAX_TOKENS)):
        folded.add(event)

    (choice,) = folded.response().choices
    assert list(choice.tool_calls) == [pb.ToolCall(id="id", name="f", arguments='{"a')]
    assert choice.finished.reason == pb.FINISH_REASON_LENGTH


def test_the_rule_of_a_filter_is_named() -> None:
    finished = stream_response(Finished(0, StopCause.CONTENT_FILTER, filter_rule="rule")).finished

    assert finished.filter_rule == "rule"
    assert not stream_response(Finished(0, StopCause.MAX_TOKENS)).finished.HasField("filter_rule")


def test_a_seed_beyond_the_signed_ones_can_be_sent_again() -> None:
    for seed in (0, 2**63 - 1, 2**63, 2**64 - 1):
        sampling = Sampling(0.5, 0.9, 0, 0.0, 0.0, 0.0, 1.0, seed=seed, reproducible=True)
        report = Report(sampling, {}, 150)
        summary = stream_response(Summary(Usage(0, 0, 0), Timings(0, 0, 0, 0), report)).summary

        assert summary.report.sampling.seed % 2**64 == seed
