"""The pipeline of a choice: detokenizer, stop tokens, stop sequences and held-back text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.backends.types import EngineFinish, EngineStep
from inference_service.output.events import Delta, Finished, FinishReason, StopCause
from inference_service.output.pipeline import ChoicePipeline
from tests.support.texts import (
    THOROUGH,
    Slices,
    cuts,
    hard_texts,
    repetitive_texts,
    slices,
    stop_sets,
    until_stop,
)

EOS = EngineFinish.END_OF_SEQUENCE
MAX = EngineFinish.MAX_TOKENS


@dataclass
class ChoiceOutput:
    """All events of a choice."""

    deltas: list[Delta] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]

    @property
    def token_count(self) -> int:
        return sum(delta.token_count for delta in self.deltas)


def run_steps(choice: ChoicePipeline, steps: Iterable[EngineStep]) -> ChoiceOutput:
    output = ChoiceOutput()
    for step in steps:
        for event in choice.on_step(step):
            assert not output.finished, "something follows the finish"
            (output.deltas if isinstance(event, Delta) else output.finished).append(event)  # type: ignore[arg-type]
        if choice.finished is not None:
            break
    return output


def named_steps(token_ids: Sequence[int], marks: Sequence[int], finish: EngineFinish) -> list[EngineStep]:
    """Steps with the ids of every token, cut at the marks; the last step has the finish."""
    groups = slices(list(token_ids), marks)
    last = len(groups) - 1
    return [EngineStep(ids, len(ids), None, finish if n == last else None) for n, ids in enumerate(groups)]


def tokens_within(visible: str, text: str, parts: Sequence[bytes]) -> list[int]:
    """The tokens whose whole text is visible.

    One that ends inside a character counts with the one that completes it.
    """
    boundaries = {len(text[:n].encode()) for n in range(len(text) + 1)}
    ends = list(accumulate(map(len, parts)))
    own_end = [next(end for end in ends[n:] if end in boundaries) for n in range(len(parts))]
    return [n for n, end in enumerate(own_end) if end <= len(visible.encode())]


texts = st.one_of(repetitive_texts(30), hard_texts(8))


@THOROUGH
@given(data=st.data(), text=texts)
def test_text_ends_before_the_first_stop_and_all_tokens_before_it_are_sent(
    data: st.DataObject, text: str
) -> None:
    stops = data.draw(stop_sets(text))
    parts: list[bytes] = data.draw(cuts(text.encode()))
    marks = data.draw(st.lists(st.integers(0, len(parts)), max_size=6))
    choice = ChoicePipeline(Slices(parts), stops=stops)

    output = run_steps(choice, named_steps(range(len(parts)), marks, MAX))

    visible, stop = until_stop(text, stops)
    whole_tokens = tokens_within(visible, text, parts)
    assert output.text == visible
    assert output.token_ids == whole_tokens
    assert output.token_count == len(whole_tokens)
    cause = StopCause.STOP_SEQUENCE if stop else StopCause.MAX_TOKENS
    assert output.finished == [Finished(0, cause, stop_sequence=stop)]


@THOROUGH
@given(data=st.data(), text=texts)
def test_no_token_is_sent_before_its_whole_text(data: st.DataObject, text: str) -> None:
    stops = data.draw(stop_sets(text))
    parts: list[bytes] = data.draw(cuts(text.encode()))
    choice = ChoicePipeline(Slices(parts), stops=stops)

    output = run_steps(choice, named_steps(range(len(parts)), range(len(parts)), MAX))

    text_so_far = b""
    sent_ids: list[int] = []
    for delta in output.deltas:
        text_so_far += delta.text.encode()
        sent_ids += delta.token_ids
        assert delta.text or delta.token_count
        assert sent_ids == list(range(len(sent_ids)))
        assert len(b"".join(parts[: len(sent_ids)])) <= len(text_so_far)


@THOROUGH
@given(data=st.data(), text=texts)
def test_no_part_of_a_stop_sequence_is_ever_visible(data: st.DataObject, text: str) -> None:
    stops = data.draw(stop_sets(text))
    parts: list[bytes] = data.draw(cuts(text.encode()))
    choice = ChoicePipeline(Slices(parts), stops=stops)
    visible, _ = until_stop(text, stops)

    text_so_far = ""
    for delta in run_steps(choice, named_steps(range(len(parts)), range(len(parts)), MAX)).deltas:
        text_so_far += delta.text
        assert visible.startswith(text_so_far)


@THOROUGH
@given(data=st.data(), text=texts)
def test_a_stop_token_ends_the_choice_and_is_not_part_of_it(data: st.DataObject, text: str) -> None:
    parts: list[bytes] = data.draw(cuts(text.encode()))
    stop_token = data.draw(st.integers(0, len(parts) - 1))
    marks = data.draw(st.lists(st.integers(0, len(parts)), max_size=6))
    choice = ChoicePipeline(Slices(parts), stop_token_ids=[stop_token])

    output = run_steps(choice, named_steps(range(len(parts)), marks, MAX))

    assert output.text == b"".join(parts[:stop_token]).decode("utf-8", "ignore")
    assert output.token_ids == list(range(stop_token))
    assert output.finished == [Finished(0, StopCause.STOP_TOKEN, stop_token_id=stop_token)]


@THOROUGH
@given(data=st.data(), text=texts)
def test_the_end_of_sequence_token_has_no_text_and_is_in_the_finish(data: st.DataObject, text: str) -> None:
    parts: list[bytes] = data.draw(cuts(text.encode()))
    eos = len(parts)
    marks = data.draw(st.lists(st.integers(0, len(parts)), max_size=6))
    choice = ChoicePipeline(Slices([*parts, b"never shown"]))

    output = run_steps(choice, named_steps([*range(len(parts)), eos], marks, EOS))

    assert output.text == text
    assert output.token_ids == list(range(len(parts)))
    assert output.token_count == len(parts)
    assert output.finished == [Finished(0, StopCause.END_OF_SEQUENCE, stop_token_id=eos)]


@THOROUGH
@given(data=st.data(), text=texts)
def test_a_limit_inside_a_character_drops_the_rest_and_loses_no_token(data: st.DataObject, text: str) -> None:
    whole = text.encode()
    size = data.draw(st.integers(0, len(whole)))
    parts: list[bytes] = data.draw(cuts(whole[:size]))
    choice = ChoicePipeline(Slices(parts))

    output = run_steps(choice, named_steps(range(len(parts)), range(len(parts)), MAX))

    assert output.text == whole[:size].decode("utf-8", "ignore")
    assert output.token_ids == list(range(len(parts)))
    assert output.token_count == len(parts)


@THOROUGH
@given(data=st.data(), text=texts)
def test_steps_with_unknown_ids_count_their_tokens_and_use_the_engine_s_text(
    data: st.DataObject, text: str
) -> None:
    """Steps of whole characters, some with all ids, some with fewer ids than tokens."""
    stops = data.draw(stop_sets(text))
    pieces: list[str] = data.draw(cuts(text))
    known = data.draw(st.lists(st.booleans(), min_size=len(pieces), max_size=len(pieces)))
    steps = [
        EngineStep([n], 1, None) if is_known else EngineStep([n], 3, piece)
        for n, (piece, is_known) in enumerate(zip(pieces, known, strict=True))
    ]
    choice = ChoicePipeline(Slices([piece.encode() for piece in pieces]), stops=stops)

    output = run_steps(choice, [*steps, EngineStep([], 0, None, MAX)])

    visible, _ = until_stop(text, stops)
    whole_steps = [n for n in range(len(pieces)) if len("".join(pieces[: n + 1])) <= len(visible)]
    assert output.text == visible
    assert output.token_ids == whole_steps
    assert output.token_count == sum(1 if known[n] else 3 for n in whole_steps)


def test_a_stop_token_among_unknown_ids_ends_the_choice() -> None:
    choice = ChoicePipeline(Slices([b""]), stop_token_ids=[7])

    output = run_steps(choice, [EngineStep([5, 7], 4, "漢字")])

    assert output.finished == [Finished(0, StopCause.STOP_TOKEN, stop_token_id=7)]


@pytest.mark.parametrize("ids", [[], [5]])
def test_an_end_whose_token_id_is_unknown(ids: list[int]) -> None:
    choice = ChoicePipeline(Slices([b""] * 6))

    output = run_steps(choice, [EngineStep(ids, 3, "ab", EOS)])

    assert output.text == "ab"
    assert output.token_count == 2
    assert output.finished[0].stop_token_id == (ids[0] if ids else None)


def test_progress_without_tokens_makes_no_event() -> None:
    choice = ChoicePipeline(Slices([b"a"]))

    assert list(choice.on_step(EngineStep([], 0, None))) == []


def test_a_stop_completed_by_the_last_token_wins_over_the_limit() -> None:
    choice = ChoicePipeline(Slices([b"a", b"END"]), stops=["END"])

    output = run_steps(choice, [EngineStep([0, 1], 2, None, MAX)])

    assert output.text == "a"
    assert output.finished == [Finished(0, StopCause.STOP_SEQUENCE, stop_sequence="END")]


def test_a_cut_releases_the_held_back_text() -> None:
    choice = ChoicePipeline(Slices([b"a", b"EN"]), stops=["END"])
    held = list(choice.on_step(EngineStep([0, 1], 2, None)))

    rest = list(choice.cut(StopCause.DEADLINE))

    assert held == [Delta(0, "a", [0], 1)]
    assert rest == [Delta(0, "EN", [1], 1), Finished(0, StopCause.DEADLINE)]


def test_a_token_that_ends_a_character_and_begins_another_is_sent_with_the_other() -> None:
    grin = "😀".encode()
    choice = ChoicePipeline(Slices(slices(b"a" + grin, [3])))

    first = list(choice.on_step(EngineStep([0], 1, None)))
    second = list(choice.on_step(EngineStep([1], 1, None)))

    assert first == [Delta(0, "a", [], 0)]
    assert second == [Delta(0, "😀", [0, 1], 2)]


REASONS = {
    StopCause.MAX_TOKENS: FinishReason.LENGTH,
    StopCause.DEADLINE: FinishReason.LENGTH,
    StopCause.CONTENT_FILTER: FinishReason.CONTENT_FILTER,
    StopCause.TOOL_CALLS: FinishReason.TOOL_CALLS,
}


@pytest.mark.parametrize("cause", StopCause)
def test_every_stop_cause_has_a_finish_reason(cause: StopCause) -> None:
    assert cause.reason is REASONS.get(cause, FinishReason.STOP)
