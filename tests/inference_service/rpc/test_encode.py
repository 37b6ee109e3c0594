"""Events as protobuf messages, as a stream and joined to a whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.backends.types import Sampling
from inference_service.output.events import (
    Delta,
    Event,
    Finished,
    FinishReason,
    Report,
    Started,
    StopCause,
    Summary,
    Timings,
    Usage,
)
from inference_service.rpc.encode import ResponseFold, stream_response
from tests.support.texts import THOROUGH

STARTED = Started("req-1", "m", 1_700_000_000, 27)
SAMPLING = Sampling(0.5, 0.9, 0, 0.0, 0.0, 0.0, 1.0, seed=2**64 - 1, reproducible=True)
REPORT = Report(SAMPLING, {7: -100.0}, 150, ("field 99",), batch_size=3, queue_estimate=0.5)
SUMMARY = Summary(Usage(27, 8, 3), Timings(1.5, 20.25, 300.0, 21.75), REPORT)
REPORT_MESSAGE = pb.Report(
    ignored_parameters=["field 99"],
    sampling=pb.SamplingOptions(
        temperature=0.5,
        top_p=0.9,
        top_k=0,
        min_p=0.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        repetition_penalty=1.0,
        seed=-1,
        logit_bias={7: -100.0},
    ),
    max_tokens=150,
    batch_size=3,
    queue_estimate_ms=500.0,
)


def fold(events: Sequence[Event]) -> generate_pb.GenerateResponse:
    folded = ResponseFold()
    for event in events:
        folded.add(event)
    return folded.response()


def test_every_sampling_option_of_the_protocol_is_reported() -> None:
    """The protocol promises that all of them are set."""
    sampling = stream_response(SUMMARY).summary.report.sampling

    assert {field.name for field, _ in sampling.ListFields()} == set(
        pb.SamplingOptions.DESCRIPTOR.fields_by_name
    )


def test_started_is_encoded() -> None:
    assert stream_response(STARTED).started == pb.Started(
        request_id="req-1", model="m", created=1_700_000_000, prompt_tokens=27
    )


def test_a_delta_is_encoded() -> None:
    assert stream_response(Delta(1, "漢", [7, 8], 3)).delta == pb.Delta(
        choice_index=1, text="漢", token_ids=[7, 8], token_count=3
    )


def test_a_summary_is_encoded() -> None:
    assert stream_response(SUMMARY).summary == pb.Summary(
        usage=pb.Usage(prompt_tokens=27, completion_tokens=8, cached_tokens=3),
        timings=pb.Timings(queue_ms=1.5, prefill_ms=20.25, decode_ms=300.0, time_to_first_token_ms=21.75),
        report=REPORT_MESSAGE,
    )


def test_an_unknown_count_is_not_zero() -> None:
    """The cached tokens stay unset if the engine does not report them."""
    unknown = replace(SUMMARY, usage=Usage(27, 8, None))

    assert not stream_response(unknown).summary.usage.HasField("cached_tokens")
    assert stream_response(replace(SUMMARY, usage=Usage(27, 8, 0))).summary.usage.HasField("cached_tokens")


@pytest.mark.parametrize("cause", StopCause)
def test_every_stop_cause_has_its_value(cause: StopCause) -> None:
    finished = stream_response(Finished(0, cause)).finished

    assert pb.StopCause.Name(finished.cause) == f"STOP_CAUSE_{cause.name}"
    assert pb.FinishReason.Name(finished.reason) == f"FINISH_REASON_{cause.reason.name}"


def test_every_finish_reason_exists_in_the_protocol() -> None:
    assert {f"FINISH_REASON_{reason.name}" for reason in FinishReason} <= set(pb.FinishReason.keys())


def test_an_unmatched_stop_is_unset() -> None:
    finished = stream_response(Finished(0, StopCause.MAX_TOKENS)).finished

    assert not finished.HasField("stop_sequence")
    assert not finished.HasField("stop_token_id")


def test_a_stop_token_of_id_0_is_set() -> None:
    finished = stream_response(Finished(0, StopCause.END_OF_SEQUENCE, stop_token_id=0)).finished

    assert finished.HasField("stop_token_id")


def test_the_whole_answer_joins_the_stream() -> None:
    end = Finished(0, StopCause.STOP_SEQUENCE, stop_sequence="END")

    response = fold([STARTED, Delta(0, "a", [1], 1), Delta(0, "漢", [2], 3), end, SUMMARY])

    assert (response.request_id, response.model, response.created) == ("req-1", "m", 1_700_000_000)
    (choice,) = response.choices
    assert (choice.index, choice.text, choice.token_count) == (0, "a漢", 4)
    assert list(choice.token_ids) == [1, 2]
    assert choice.finished == stream_response(end).finished
    assert response.usage == stream_response(SUMMARY).summary.usage
    assert response.timings == stream_response(SUMMARY).summary.timings


def test_an_answer_without_text_still_has_its_choice() -> None:
    (choice,) = fold([STARTED, Finished(0, StopCause.END_OF_SEQUENCE), SUMMARY]).choices

    assert (choice.index, choice.text, choice.token_count) == (0, "", 0)
    assert choice.finished.cause == pb.STOP_CAUSE_END_OF_SEQUENCE


deltas = st.builds(
    lambda index, text, ids, unknown: Delta(index, text, ids, len(ids) + unknown),
    st.integers(0, 2),
    st.text(max_size=5),
    st.lists(st.integers(0, 99), max_size=4),
    st.integers(0, 2),
)


@THOROUGH
@given(interleaved=st.lists(deltas, max_size=20))
def test_interleaved_choices_keep_their_own_text(interleaved: list[Delta]) -> None:
    ends = [Finished(index, StopCause.MAX_TOKENS) for index in range(3)]

    response = fold([STARTED, *interleaved, *ends, SUMMARY])

    assert [choice.index for choice in response.choices] == [0, 1, 2]
    for choice in response.choices:
        own = [delta for delta in interleaved if delta.index == choice.index]
        assert choice.text == "".join(delta.text for delta in own)
        assert list(choice.token_ids) == [token_id for delta in own for token_id in delta.token_ids]
        assert choice.token_count == sum(delta.token_count for delta in own)
