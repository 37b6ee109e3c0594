"""The pipeline of a choice with all stages: stop sequences, content filter and parser of tool calls."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.backends.types import EngineFinish, EngineStep, TokenLogprob
from inference_service.output.content_filter.rules import Action, Rule
from inference_service.output.events import Delta, Finished, FinishReason, ScoredToken, StopCause
from inference_service.output.pipeline import ChoicePipeline
from inference_service.output.tool_calls import ToolCallParser, call_ids
from tests.support import filtering
from tests.support.texts import THOROUGH, Slices, cuts, slices, until_stop
from tests.support.tool_calls import Reader

EOS = EngineFinish.END_OF_SEQUENCE
MAX = EngineFinish.MAX_TOKENS
CALL = '{"name": "f", "arguments": {"a": "x"}}'
STOPS = ("STOP", "}\n\n")
RULES = (
    filtering.rule("bad words", phrases=("bad word",)),
    filtering.rule("secrets", action=Action.REDACT, phrases=("secret",), replacement="[gone]"),
)
WORDS = ("bad", " ", "word", "secret", "sec", "ST", "OP", "\n", "漢😀", "hello ", "}", '{"name": "f"', CALL)

texts = st.lists(st.sampled_from((*WORDS, *WORDS[-1:] * 3)), max_size=10).map("".join)


@dataclass(frozen=True)
class Setting:
    """The stages of a pipeline."""

    stops: Sequence[str] = STOPS
    rules: Sequence[Rule] = RULES
    tools: bool = True
    most_calls: int | None = None
    include_stop: bool = False

    def parser(self) -> ToolCallParser | None:
        return ToolCallParser({"f"}, call_ids(7, [1]), self.most_calls) if self.tools else None

    def pipeline(self, parts: Sequence[bytes]) -> ChoicePipeline:
        return ChoicePipeline(
            Slices(parts),
            stops=self.stops,
            include_stop=self.include_stop,
            content_filter=filtering.start(*self.rules) if self.rules else None,
            tools=self.parser(),
        )


settings = st.builds(
    Setting,
    st.sampled_from([(), STOPS]),
    st.sampled_from([(), RULES]),
    st.booleans(),
    st.sampled_from([None, 1, 2]),
    st.booleans(),
)


@dataclass
class ChoiceOutput:
    """The whole output of a choice."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    token_count: int = 0
    logprobs: list[ScoredToken] = field(default_factory=list)
    calls: list[tuple[str | None, str | None, str]] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, delta: Delta) -> None:
        assert delta.text or delta.token_count or delta.tool_calls
        assert len(delta.logprobs) == len(delta.token_ids) <= delta.token_count
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.token_count += delta.token_count
        self.logprobs += delta.logprobs
        for piece in delta.tool_calls:
            if piece.id is not None:
                assert piece.index == len(self.calls)
                self.calls.append((piece.id, piece.name, piece.arguments))
            else:
                call_id, name, arguments = self.calls[piece.index]
                self.calls[piece.index] = (call_id, name, arguments + piece.arguments)


def run_steps(choice: ChoicePipeline, steps: Iterable[EngineStep]) -> ChoiceOutput:
    output = ChoiceOutput()
    for step in steps:
        for event in choice.on_step(step):
            assert output.finished is None, "something follows the finish"
            if isinstance(event, Delta):
                output.add(event)
            else:
                output.finished = event
        if choice.finished is not None:
            break
    return output


def steps_of(parts: Sequence[bytes], marks: Sequence[int], finish: EngineFinish = MAX) -> list[EngineStep]:
    """Steps cut at the marks, with one token for each part and its log probability."""
    groups = slices(list(range(len(parts) + (finish is EOS))), marks)
    last = len(groups) - 1
    return [
        EngineStep(
            ids,
            len(ids),
            None,
            finish if n == last else None,
            logprobs=[TokenLogprob(i, -float(i), [(i, -float(i))]) for i in ids],
        )
        for n, ids in enumerate(groups)
    ]


def run(
    setting: Setting, parts: Sequence[bytes], marks: Sequence[int], finish: EngineFinish = MAX
) -> ChoiceOutput:
    choice = setting.pipeline([*parts, b"never shown"])
    return run_steps(choice, steps_of(parts, marks, finish))


def one_by_one(setting: Setting, parts: Sequence[bytes], finish: EngineFinish = MAX) -> ChoiceOutput:
    return run(setting, parts, range(1, len(parts) + (finish is EOS)), finish)


@THOROUGH
@given(data=st.data(), text=texts, setting=settings, finish=st.sampled_from([EOS, MAX]))
def test_the_output_does_not_depend_on_the_cut_into_steps(
    data: st.DataObject, text: str, setting: Setting, finish: EngineFinish
) -> None:
    """This holds for text, ids, counts, log probabilities, calls and the finish."""
    parts: list[bytes] = data.draw(cuts(text.encode()))
    marks = data.draw(st.lists(st.integers(0, len(parts)), max_size=6))

    assert run(setting, parts, marks, finish) == one_by_one(setting, parts, finish)


@THOROUGH
@given(data=st.data(), text=texts, setting=settings)
def test_text_and_calls_do_not_depend_on_the_tokens(data: st.DataObject, text: str, setting: Setting) -> None:
    """They equal the result of applying the stages to the whole text, one after the other."""
    parts: list[bytes] = data.draw(cuts(text.encode()))
    output = one_by_one(setting, parts)

    shown, stop = until_stop(text, setting.stops)
    shown += stop if stop and setting.include_stop else ""
    if setting.rules:
        shown = filtering.expected([shown], setting.rules).text
    calls: list[tuple[str, str]] = []
    if setting.tools:
        parser = setting.parser()
        assert isinstance(parser, ToolCallParser)
        reader = Reader(parser)
        outputs = [reader.feed(shown), reader.finish(cut=True)]
        shown = "".join(output.content for output in outputs)
        for piece in (piece for output in outputs for piece in output.deltas):
            if piece.name is not None:
                calls.append((piece.name, ""))
            calls[-1] = (calls[-1][0], calls[-1][1] + piece.arguments)
    assert output.text == shown
    assert [(name, arguments) for _, name, arguments in output.calls] == calls


@THOROUGH
@given(data=st.data(), text=texts, setting=settings, finish=st.sampled_from([EOS, MAX]))
def test_log_probabilities_stay_with_their_tokens(
    data: st.DataObject, text: str, setting: Setting, finish: EngineFinish
) -> None:
    parts: list[bytes] = data.draw(cuts(text.encode()))
    marks = data.draw(st.lists(st.integers(0, len(parts)), max_size=6))

    output = run(setting, parts, marks, finish)

    assert [score.token_id for score in output.logprobs] == output.token_ids
    for score in output.logprobs:
        assert score.logprob == -float(score.token_id)
        assert score.raw == parts[score.token_id]
        assert [other.token_id for other in score.top] == [score.token_id]
    assert output.token_ids == sorted(set(output.token_ids))


@THOROUGH
@given(data=st.data(), text=texts, setting=settings, finish=st.sampled_from([EOS, MAX]))
def test_a_choice_with_finish_reason_tool_calls_has_only_whole_calls(
    data: st.DataObject, text: str, setting: Setting, finish: EngineFinish
) -> None:
    parts: list[bytes] = data.draw(cuts(text.encode()))

    output = run(setting, parts, data.draw(st.lists(st.integers(0, len(parts)), max_size=6)), finish)

    assert output.finished is not None
    if output.finished.reason is FinishReason.TOOL_CALLS:
        assert output.calls
        for _, _, arguments in output.calls:
            assert json.loads(arguments) == {"a": "x"}
    if setting.most_calls is not None:
        assert len(output.calls) <= setting.most_calls


@pytest.mark.parametrize("finish", [EOS, MAX])
@pytest.mark.parametrize("marks", [[], [1], [2], [1, 2]])
def test_the_last_allowed_call_ends_the_choice_for_any_finish_of_the_engine(
    marks: list[int], finish: EngineFinish
) -> None:
    """This holds also if the engine's end comes in the same step or with the same token."""
    parts = [CALL[:10].encode(), CALL[10:].encode()]

    output = run(Setting(stops=(), rules=(), most_calls=1), parts, marks, finish)

    assert output.finished == Finished(0, StopCause.TOOL_CALLS, calls_tools=True)
    assert output.finished.reason is FinishReason.TOOL_CALLS
    assert output.token_ids == [0, 1]


@pytest.mark.parametrize("marks", [[], [1], [1, 2]])
def test_output_after_the_last_call_is_ignored(marks: list[int]) -> None:
    parts = [CALL.encode(), b" and more", b"STOP", CALL.encode()]

    output = run(Setting(stops=("STOP",), most_calls=1), parts, marks)

    assert (output.text, len(output.calls), output.token_ids) == ("", 1, [0])
    assert output.finished == Finished(0, StopCause.TOOL_CALLS, calls_tools=True)


@pytest.mark.parametrize("cut", range(1, len(CALL)))
def test_a_call_that_is_cut_short_ends_with_length(cut: int) -> None:
    output = one_by_one(Setting(stops=(), rules=()), [CALL[:cut].encode()])

    assert output.finished is not None
    is_whole = CALL[:cut].count("}") > 0
    assert output.finished.reason is FinishReason.LENGTH
    assert output.finished.calls_tools is is_whole
    assert output.text == (CALL[:cut] if cut <= CALL.index('"f"') else "")


@pytest.mark.parametrize("ends_at", ["ments", '"x', "}\n\n"])
def test_a_call_cut_by_a_stop_sequence_ends_with_length(ends_at: str) -> None:
    """The call is incomplete, so the finish must not look like a natural end."""
    output = one_by_one(Setting(stops=(ends_at,), rules=()), [CALL[:-1].encode(), b"}\n\n"])

    is_whole = ends_at == "}\n\n"
    assert output.finished is not None
    assert output.finished.cause is StopCause.STOP_SEQUENCE
    assert output.finished.reason is (FinishReason.TOOL_CALLS if is_whole else FinishReason.LENGTH)
    assert output.text == ""


def test_a_call_that_the_model_ends_early_ends_with_stop() -> None:
    output = one_by_one(Setting(stops=(), rules=()), [CALL[:-4].encode()], EOS)

    assert output.finished is not None
    assert output.finished.reason is FinishReason.STOP


def test_a_deadline_within_a_call_ends_with_length() -> None:
    choice = Setting(stops=(), rules=()).pipeline([CALL[:-4].encode()])
    (opened,) = choice.on_step(EngineStep([0], 1, None))

    assert isinstance(opened, Delta)
    assert [piece.name for piece in opened.tool_calls] == ["f"]
    assert [*choice.cut(StopCause.DEADLINE)] == [Finished(0, StopCause.DEADLINE, cuts_call=True)]


def test_a_blocked_text_ends_before_the_match_and_names_the_rule() -> None:
    output = one_by_one(Setting(), [b"some bad", b" wor", b"ds and", b" more"])

    assert output.text == "some "
    assert output.finished == Finished(0, StopCause.CONTENT_FILTER, filter_rule="bad words")
    assert output.finished.reason is FinishReason.CONTENT_FILTER
    assert output.token_ids == []


@pytest.mark.parametrize("marks", [[], [1], [1, 2]])
def test_a_stop_sequence_or_a_blocked_match_ends_the_choice_whichever_is_first(marks: list[int]) -> None:
    stopped = run(Setting(), [b"a STOP", b"bad word", b" "], marks)
    blocked = run(Setting(), [b"a bad word ", b"STOP", b" "], marks)

    assert stopped.finished == Finished(0, StopCause.STOP_SEQUENCE, stop_sequence="STOP")
    assert blocked.finished == Finished(0, StopCause.CONTENT_FILTER, filter_rule="bad words")
    assert (stopped.text, blocked.text) == ("a ", "a ")


def test_the_arguments_of_a_call_are_filtered() -> None:
    output = one_by_one(Setting(), [CALL.replace("x", "a secret").encode()])

    assert [arguments for _, _, arguments in output.calls] == ['{"a": "a [gone]"}']


def test_redacted_tokens_are_counted_and_have_no_ids() -> None:
    output = one_by_one(Setting(tools=False), [b"my ", b"sec", b"ret", b" is"])

    assert output.text == "my [gone] is"
    assert (output.token_ids, output.token_count) == ([0, 3], 4)
    assert [score.token_id for score in output.logprobs] == [0, 3]


@THOROUGH
@given(
    data=st.data(), words=st.lists(st.sampled_from(("secret", "sec", " ", "}", "漢😀", "ST")), max_size=10)
)
def test_exactly_the_tokens_with_redacted_text_have_no_ids(data: st.DataObject, words: list[str]) -> None:
    """This holds also for tokens that were held back together for a possible stop sequence."""
    parts: list[str] = data.draw(cuts("".join(words)))
    setting = Setting(stops=("STOP", "}}}!", "secret}!"), tools=False)

    output = one_by_one(setting, [part.encode() for part in parts])

    expected = filtering.expected(parts, RULES)
    assert (output.text, output.token_ids, output.token_count) == (
        expected.text,
        expected.named,
        expected.count,
    )


def test_an_included_stop_sequence_is_filtered() -> None:
    setting = Setting(stops=("secret",), include_stop=True, tools=False)

    output = one_by_one(setting, [b"a secret", b" b"])

    assert output.text == "a [gone]"
    assert output.finished == Finished(0, StopCause.STOP_SEQUENCE, stop_sequence="secret")


def test_pieces_of_one_call_in_a_step_are_joined() -> None:
    """A step of many tokens makes one event, in which a call has one piece."""
    parts = [bytes([byte]) for byte in (CALL + "\n" + CALL).encode()]
    choice = Setting(rules=(), stops=()).pipeline(parts)

    delta, finished = choice.on_step(EngineStep(list(range(len(parts))), len(parts), None, MAX))

    assert isinstance(delta, Delta)
    assert [(piece.index, piece.name, piece.arguments) for piece in delta.tool_calls] == [
        (0, "f", '{"a": "x"}'),
        (1, "f", '{"a": "x"}'),
    ]
    assert isinstance(finished, Finished)


def test_a_redacted_token_has_no_id_even_if_it_begins_a_visible_character() -> None:
    parts = slices("secret😀!".encode(), [8])

    output = one_by_one(Setting(tools=False), parts)

    assert (output.text, output.token_ids, output.token_count) == ("[gone]😀!", [1], 2)
