"""A choice: detokenizing, stop tokens, stop sequences and hold-back together."""

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
class Told:
    """All that a choice said."""

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


def tell(choice: ChoicePipeline, steps: Iterable[EngineStep]) -> Told:
    told = Told()
    for step in steps:
        for event in choice.on_step(step):
            assert not told.finished, "something follows the finish"
            (told.deltas if isinstance(event, Delta) else told.finished).append(event)  # type: ignore[arg-type]
        if choice.finished is not None:
            break
    return told


def named_steps(token_ids: Sequence[int], marks: Sequence[int], finish: EngineFinish) -> list[EngineStep]:
    """Steps that name every token: the ids cut at the marks, the last step with the finish."""
    groups = slices(list(token_ids), marks)
    last = len(groups) - 1
    return [EngineStep(ids, len(ids), None, finish if n == last else None) for n, ids in enumerate(groups)]


def tokens_within(visible: str, text: str, parts: Sequence[bytes]) -> list[int]:
    """The tokens all of whose text is visible; one that ends inside a character goes with its completer."""
    boundaries = {len(text[:n].encode()) for n in range(len(text) + 1)}
    ends = list(accumulate(map(len, parts)))
    own_end = [next(end for end in ends[n:] if end in boundaries) for n in range(len(parts))]
    return [n for n, end in enumerate(own_end) if end <= len(visible.encode())]


texts = st.one_of(repetitive_texts(30), hard_texts(8))


@THOROUGH
@given(data=st.data(), text=texts)
def test_text_ends_before_the_first_stop_and_every_token_before_it_leaves(
    data: st.DataObject, text: str
) -> None:
    stops = data.draw(stop_sets(text))
    parts: list[bytes] = data.draw(cuts(text.encode()))
    marks = data.draw(st.lists(st.integers(0, len(parts)), max_size=6))
    choice = ChoicePipeline(Slices(parts), stops=stops)

    told = tell(choice, named_steps(range(len(parts)), marks, MAX))

    visible, stop = until_stop(text, stops)
    whole_tokens = tokens_within(visible, text, parts)
    assert told.text == visible
    assert told.token_ids == whole_tokens
    assert told.token_count == len(whole_tokens)
    cause = StopCause.STOP_SEQUENCE if stop else StopCause.MAX_TOKENS
    assert told.finished == [Finished(0, cause, stop_sequence=stop)]


@THOROUGH
@given(data=st.data(), text=texts)
def test_no_token_leaves_before_the_last_of_its_text(data: st.DataObject, text: str) -> None:
    stops = data.draw(stop_sets(text))
    parts: list[bytes] = data.draw(cuts(text.encode()))
    choice = ChoicePipeline(Slices(parts), stops=stops)

    told = tell(choice, named_steps(range(len(parts)), range(len(parts)), MAX))

    said = b""
    left: list[int] = []
    for delta in told.deltas:
        said += delta.text.encode()
        left += delta.token_ids
        assert delta.text or delta.token_count
        assert left == list(range(len(left)))
        assert len(b"".join(parts[: len(left)])) <= len(said)


@THOROUGH
@given(data=st.data(), text=texts)
def test_no_stop_is_ever_visible_in_part(data: st.DataObject, text: str) -> None:
    stops = data.draw(stop_sets(text))
    parts: list[bytes] = data.draw(cuts(text.encode()))
    choice = ChoicePipeline(Slices(parts), stops=stops)
    visible, _ = until_stop(text, stops)

    said = ""
    for delta in tell(choice, named_steps(range(len(parts)), range(len(parts)), MAX)).deltas:
        said += delta.text
        assert visible.startswith(said)


@THOROUGH
@given(data=st.data(), text=texts)
def test_a_stop_token_ends_it_and_is_not_part_of_it(data: st.DataObject, text: str) -> None:
    parts: list[bytes] = data.draw(cuts(text.encode()))
    stop_token = data.draw(st.integers(0, len(parts) - 1))
    marks = data.draw(st.lists(st.integers(0, len(parts)), max_size=6))
    choice = ChoicePipeline(Slices(parts), stop_token_ids=[stop_token])

    told = tell(choice, named_steps(range(len(parts)), marks, MAX))

    assert told.text == b"".join(parts[:stop_token]).decode("utf-8", "ignore")
    assert told.token_ids == list(range(stop_token))
    assert told.finished == [Finished(0, StopCause.STOP_TOKEN, stop_token_id=stop_token)]


@THOROUGH
@given(data=st.data(), text=texts)
def test_the_end_of_sequence_token_has_no_text_and_is_named(data: st.DataObject, text: str) -> None:
    parts: list[bytes] = data.draw(cuts(text.encode()))
    eos = len(parts)
    marks = data.draw(st.lists(st.integers(0, len(parts)), max_size=6))
    choice = ChoicePipeline(Slices([*parts, b"never shown"]))

    told = tell(choice, named_steps([*range(len(parts)), eos], marks, EOS))

    assert told.text == text
    assert told.token_ids == list(range(len(parts)))
    assert told.token_count == len(parts)
    assert told.finished == [Finished(0, StopCause.END_OF_SEQUENCE, stop_token_id=eos)]


@THOROUGH
@given(data=st.data(), text=texts)
def test_a_limit_inside_a_character_drops_the_rest_and_loses_no_token(data: st.DataObject, text: str) -> None:
    whole = text.encode()
    size = data.draw(st.integers(0, len(whole)))
    parts: list[bytes] = data.draw(cuts(whole[:size]))
    choice = ChoicePipeline(Slices(parts))

    told = tell(choice, named_steps(range(len(parts)), range(len(parts)), MAX))

    assert told.text == whole[:size].decode("utf-8", "ignore")
    assert told.token_ids == list(range(len(parts)))
    assert told.token_count == len(parts)


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

    told = tell(choice, [*steps, EngineStep([], 0, None, MAX)])

    visible, _ = until_stop(text, stops)
    whole_steps = [n for n in range(len(pieces)) if len("".join(pieces[: n + 1])) <= len(visible)]
    assert told.text == visible
    assert told.token_ids == whole_steps
    assert told.token_count == sum(1 if known[n] else 3 for n in whole_steps)


def test_a_stop_token_among_unknown_ids_ends_it() -> None:
    choice = ChoicePipeline(Slices([b""]), stop_token_ids=[7])

    told = tell(choice, [EngineStep([5, 7], 4, "漢字")])

    assert told.finished == [Finished(0, StopCause.STOP_TOKEN, stop_token_id=7)]


@pytest.mark.parametrize("ids", [[], [5]])
def test_an_end_whose_token_has_no_name(ids: list[int]) -> None:
    choice = ChoicePipeline(Slices([b""] * 6))

    told = tell(choice, [EngineStep(ids, 3, "ab", EOS)])

    assert told.text == "ab"
    assert told.token_count == 2
    assert told.finished[0].stop_token_id == (ids[0] if ids else None)


def test_progress_without_tokens_says_nothing() -> None:
    choice = ChoicePipeline(Slices([b"a"]))

    assert list(choice.on_step(EngineStep([], 0, None))) == []


def test_a_stop_completed_by_the_last_token_wins_over_the_limit() -> None:
    choice = ChoicePipeline(Slices([b"a", b"END"]), stops=["END"])

    told = tell(choice, [EngineStep([0, 1], 2, None, MAX)])

    assert told.text == "a"
    assert told.finished == [Finished(0, StopCause.STOP_SEQUENCE, stop_sequence="END")]


def test_a_cut_lets_go_of_what_was_held_back() -> None:
    choice = ChoicePipeline(Slices([b"a", b"EN"]), stops=["END"])
    held = list(choice.on_step(EngineStep([0, 1], 2, None)))

    rest = list(choice.cut(StopCause.DEADLINE))

    assert held == [Delta(0, "a", [0], 1)]
    assert rest == [Delta(0, "EN", [1], 1), Finished(0, StopCause.DEADLINE)]


def test_a_token_that_ends_one_character_and_begins_another_leaves_with_the_other() -> None:
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
def test_every_cause_has_a_reason(cause: StopCause) -> None:
    assert cause.reason is REASONS.get(cause, FinishReason.STOP)
