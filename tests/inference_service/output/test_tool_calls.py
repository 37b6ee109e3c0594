"""Tool calls are found while they are generated, at every cut, and no other text is mistaken for one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.output.tool_calls import ToolCallParser
from inference_service.prompt import tool_formats
from inference_service.prompt.conversation import ToolCall
from tests.support.texts import THOROUGH, cuts
from tests.support.tool_calls import Reader

NAMES = ("get_weather", "get_time", "f")


@dataclass
class ParsedOutput:
    """The output as a caller joins it."""

    content: str = ""
    names: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    called: bool = False
    complete: bool = False
    cut: bool = False

    @property
    def calls(self) -> list[tuple[str, str]]:
        return list(zip(self.names, self.arguments, strict=True))


def parse_pieces(
    pieces: Sequence[str], max_calls: int | None = None, *, enforced: bool = False, cut: bool = False
) -> ParsedOutput:
    parser = ToolCallParser(NAMES, "call_{}".format, max_calls, enforced=enforced)
    reader = Reader(parser)
    result = ParsedOutput()
    for output in [*map(reader.feed, pieces), reader.finish(cut=cut)]:
        result.content += output.content
        for delta in output.deltas:
            if delta.id is not None:
                assert delta.index == len(result.ids)
                assert delta.name is not None
                assert not delta.arguments
                result.ids.append(delta.id)
                result.names.append(delta.name)
                result.arguments.append("")
            else:
                assert delta.name is None
                assert delta.arguments
                assert delta.index == len(result.ids) - 1
                result.arguments[-1] += delta.arguments
    result.called, result.complete = parser.called, parser.is_complete
    result.cut = parser.is_cut
    return result


WEATHER = '{"city": "Paris"}'
CALL = f'{{"name": "get_weather", "arguments": {WEATHER}}}'

HARD_ARGUMENTS = [
    "{}",
    "{ }",
    '{"a": {"b": [{}, [], [[{"c": null}]]]}}',
    r'{"code": "if (x) { return \"}\"; }"}',
    r'{"s": "\\"}',
    r'{"s": "\\\"}{", "t": "\u00e9\ud83d\ude00\/\b\f\n\r\t"}',
    '{"größe": "漢字 😀 👩\u200d👩\u200d👧"}',
    '{"n": [0, -1, 1.5, 1e9, -0.0E-7, 10], "b": [true, false, null]}',
    '{\n  "city" : "Paris",\r\n\t"days" : 3\n}',
    '{"text": "{\\"name\\": \\"f\\", \\"arguments\\": {}}"}',
    '{"": ""}',
    "{" + '"a": {' * 200 + "}" * 201,
]


@pytest.mark.parametrize("arguments", HARD_ARGUMENTS)
@pytest.mark.parametrize("key", ["arguments", "parameters"])
def test_arguments_are_sent_as_the_model_wrote_them(arguments: str, key: str) -> None:
    json.loads(arguments)
    text = f'{{"name": "f", "{key}": {arguments}}}'

    for pieces in ([text], list(text)):
        result = parse_pieces(pieces)
        assert result.calls == [("f", arguments)]
        assert result.called
        assert not result.content


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"  \n {CALL}\n",
        f"<|python_tag|>{CALL}",
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"[{CALL}]",
        f"[\n  {CALL}\n]",
        f'{{"type": "function", "name": "get_weather", "parameters": {WEATHER}}}',
        f'{{"name": "get_weather", "parameters": {WEATHER}, "type": "function"}}',
        f'{{"arguments": {WEATHER}, "name": "get_weather"}}',
        f'{{ "name" :\n"get_weather" ,\t"arguments" : {WEATHER} }}',
    ],
)
def test_all_formats_of_a_call_are_recognised(text: str) -> None:
    for pieces in ([text], list(text)):
        result = parse_pieces(pieces)
        assert result.calls == [("get_weather", WEATHER)]
        assert result.ids == ["call_0"]
        assert result.called
        assert not result.content


@pytest.mark.parametrize(
    "between", ["\n", "; ", ";", ", ", ",\n  ", "", "\n</tool_call>\n<tool_call>\n", "]\n["]
)
def test_several_calls_are_recognised(between: str) -> None:
    other = '{"name": "f", "arguments": {}}'

    for text in (CALL + between + other, f"[{CALL}{between}{other}]"):
        result = parse_pieces(list(text))
        assert result.calls == [("get_weather", WEATHER), ("f", "{}")]
        assert result.ids == ["call_0", "call_1"]
        assert result.called
        assert not result.content


def test_text_around_calls_is_content() -> None:
    result = parse_pieces(list(f"Let me look.\n\n{CALL}\nThat is all; really."))

    assert result.calls == [("get_weather", WEATHER)]
    assert result.content == "Let me look.\n\n\nThat is all; really."


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        "",
        "  \n ",
        "\n\nHello {world} [1] <b>x</b>",
        '{"answer": 42}',
        '{"name": "get_weathers", "arguments": {}}',
        '{"name": "get_weath", "arguments": {}}',
        '{"name": "get_weather", "arguments": "{}"}',
        '{"name": "get_weather", "arguments": null}',
        '{"name": "get_weather", "arguments": [1]}',
        '{"name": "get_weather"}',
        '{"arguments": {}}',
        '{"arguments": {"a": 1}, "parameters": {}, "name": "f"}',
        '{"name": "f", "name": "f", "arguments": {}}',
        '{"arguments": {"name": "f"}, "other": 1}',
        '{"arguments": {"a": tru}, "name": "f"}',
        '{"name": f, "arguments": {}}',
        '{name: "f", "arguments": {}}',
        '{"name" "f"}',
        '{"type": "tool", "name": "f", "arguments": {}}',
        '{"name": "f", "arguments"',
        '{"name": "get_w',
        "<|python_tag|>print(1)",
        "<|pyth",
        "<tool_call>no",
        "[1, 2, 3]",
        "[[[{",
        "{\n{\n",
        f"Use {CALL} for that.",
        f'{{"example": {CALL}}}',
        "}{][;,",
        "; {",
    ],
)
def test_text_that_is_no_call_is_unchanged_content(text: str) -> None:
    for pieces in ([text], list(text)):
        result = parse_pieces(pieces)
        assert result.content == text
        assert not result.calls
        assert not result.called


def test_a_call_on_its_own_line_after_other_text_is_recognised() -> None:
    """The other text may have looked like a call at first."""
    for before in ("{\n", '{"name":\n', "[x\n", "<\n"):
        result = parse_pieces(list(f"{before}{CALL}"))
        assert result.content == before
        assert result.calls == [("get_weather", WEATHER)]


def test_only_text_that_may_become_a_call_is_held_back() -> None:
    parser = ToolCallParser(NAMES, "call_{}".format)
    reader = Reader(parser)

    assert reader.feed("Hello\n").content == "Hello\n"
    assert reader.feed('{"na').content == ""
    assert reader.feed("g").content == '{"nag'
    assert reader.feed('\n{"name": "f", "arguments":').content == "\n"
    (opening, first) = reader.feed(' {"a').deltas
    assert (opening.id, opening.name) == ("call_0", "f")
    assert first.arguments == '{"a'
    assert [delta.arguments for delta in reader.feed('": 1').deltas] == ['": 1']
    assert not parser.called
    assert [delta.arguments for delta in reader.feed("}").deltas] == ["}"]
    assert not reader.feed("}")
    assert parser.called


@pytest.mark.parametrize("cut", range(len(CALL)))
def test_a_call_that_is_cut_off_is_not_completed(cut: int) -> None:
    """Only the model's own text is sent; it counts as a call once its arguments are complete."""
    result = parse_pieces(list(CALL[:cut]))
    end = len(CALL) - 1

    assert result.called == (cut == end)
    if result.calls:
        ((name, arguments),) = result.calls
        assert name == "get_weather"
        assert CALL[:cut].endswith(arguments)
        assert WEATHER.startswith(arguments)
        assert not result.content
    else:
        assert result.content == CALL[:cut]


FORMS = [tool_formats.PLAIN, *tool_formats.BARE.values(), *tool_formats.TAGGED.values()]
TWO_CALLS = (ToolCall("1", "get_weather", WEATHER), ToolCall("2", "f", '{"a": [1, "}"]}'))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_enforced_calls_are_never_content_at_any_cut(
    form: tool_formats.ToolFormat,
) -> None:
    text = form.write(TWO_CALLS)
    for end in range(len(text) + 1):
        for pieces in ([text[:end]], list(text[:end])):
            for cut in (True, False):
                result = parse_pieces(pieces, enforced=True, cut=cut)
                assert result.content == ""
                assert result.names == ["get_weather", "f"][: len(result.names)]
                for arguments, call in zip(result.arguments, TWO_CALLS, strict=False):
                    assert call.arguments.startswith(arguments)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_recognised_call_is_never_content_at_any_cut(form: tool_formats.ToolFormat) -> None:
    """It is recognised by the mark of its format, by the key of its name, or by the call before it."""
    text = "Let me see.\n" + form.write(TWO_CALLS)
    known = text.index('"get') if not form.opening else text.index(form.opening) + len(form.opening)
    for end in range(known + 1, len(text) + 1):
        for pieces in ([text[:end]], list(text[:end])):
            result = parse_pieces(pieces, cut=True)
            assert result.content == "Let me see.\n"
            assert result.cut == (end < text.index(WEATHER) + len(WEATHER)) or len(result.names) > 0


@pytest.mark.parametrize("text", ["{", '{"a', "[1, {", "<", "<t", "<b>", "[[[{", '{"name', "{\n{\n"])
def test_ambiguous_text_is_content_when_it_is_cut(text: str) -> None:
    result = parse_pieces([text], cut=True)
    assert (result.content, result.cut) == (text, False)


@pytest.mark.parametrize(("before", "is_call"), [("", True), ("I say:\n", True), ("I say: ", False)])
def test_in_a_continued_message_a_call_starts_only_at_a_new_line(before: str, is_call: bool) -> None:
    reader = Reader(ToolCallParser(NAMES, "call_{}".format, before=before))

    assert bool(reader.feed(CALL).deltas) is is_call


def test_an_answer_whose_second_call_is_cut_off_does_not_count_as_calls() -> None:
    assert not parse_pieces([f'{CALL}\n{{"name": "f", "arguments": {{"a"']).called


@pytest.mark.parametrize(
    "broken",
    [
        "{]",
        "{,",
        "{a",
        '{"a" 1',
        '{"a": }',
        '{"a": 1,}',
        '{"a": [1,]',
        '{"a": [,',
        '{"a": 01}',
        '{"a": 1.}',
        '{"a": -}',
        '{"a": 1e}',
        '{"a": NaN',
        '{"a": nul}',
        '{"a": trues',
        '{"a": "line\nbreak',
        r'{"a": "\x',
        r'{"a": "\u12g',
        '{"a": 1 2',
        '{"a": [1}',
        "{'a'",
    ],
)
def test_arguments_that_become_invalid_json(broken: str) -> None:
    """No text is lost or becomes content, no further call starts, and the answer does not count as calls."""
    result = parse_pieces(list(f'{{"name": "f", "arguments": {broken}}}\n{CALL}'))

    assert result.names == ["f"]
    assert (result.arguments, result.content) == ([f"{broken}}}\n{CALL}"], "")
    assert not result.called


@pytest.mark.parametrize("behind", [" oops", ', "extra": 1}', "", "\n", "]}"])
def test_a_call_counts_once_its_arguments_are_complete(behind: str) -> None:
    """Models may omit the last brace."""
    result = parse_pieces(list(f'{{"name": "f", "arguments": {{}}{behind}'))

    assert result.calls == [("f", "{}")]
    assert result.called
    assert result.content.strip() == behind.strip()


def test_the_last_allowed_call_ends_the_text() -> None:
    text = f'{CALL}\n{{"name": "f", "arguments": {{}}}} and more'
    result = parse_pieces(list(text), max_calls=1)

    assert result.calls == [("get_weather", WEATHER)]
    assert (result.content, result.called, result.complete) == ("", True, True)
    assert len(parse_pieces([text], max_calls=2).calls) == 2
    assert parse_pieces([text], max_calls=2).content == ""
    assert not parse_pieces([CALL], max_calls=2).complete


@pytest.mark.parametrize("behind", ["oops", " oops", "\n\nx", ', "extra": 1}'])
def test_text_after_the_last_call_is_no_content_even_without_its_last_brace(behind: str) -> None:
    for cut in (True, False):
        result = parse_pieces(list(f'{{"name": "f", "arguments": {{}}{behind}'), max_calls=1, cut=cut)

        assert result.calls == [("f", "{}")]
        assert (result.content, result.called, result.complete, result.cut) == ("", True, True, False)


PIECES = [
    CALL,
    '{"name": "f", "arguments": {"a": "}{", "b": [1, {"c": "\\""}]}}',
    '{"arguments": {"x": "y"}, "name": "get_time"}',
    '{"name": "nobody", "arguments": {}}',
    '{"name": "f", "arguments": {bad}}',
    '{"name"',
    ": ",
    '"f"',
    "arguments",
    *("{", "}", "[", "]", "<", ";", ",", '"', "\\", "\n", " ", "x", "漢😀"),
    "<|python_tag|>",
    "<tool_call>",
    "</tool_call>",
    "Some words. ",
]


def outputs() -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(PIECES), max_size=10).map("".join)


@pytest.mark.slow
@THOROUGH
@given(data=st.data(), text=outputs())
def test_the_result_does_not_depend_on_the_cuts(data: st.DataObject, text: str) -> None:
    assert parse_pieces(data.draw(cuts(text))) == parse_pieces([text])


@pytest.mark.slow
@THOROUGH
@given(text=outputs())
def test_no_text_is_lost_and_calls_are_json(text: str) -> None:
    result = parse_pieces([text])

    for name, arguments in result.calls:
        assert name in NAMES
        assert arguments in text
        assert not result.called or isinstance(json.loads(arguments), dict)
    if not result.calls:
        assert result.content == text
    assert sorted(significant(result.content, *result.arguments)) == sorted(significant(text))


def significant(*texts: str) -> str:
    """The characters that do not belong to the frame around arguments."""
    return "".join(char for text in texts for char in text if char in "x漢😀S1")


@pytest.mark.slow
@THOROUGH
@given(
    value=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=4,
    ),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    key=st.sampled_from(["arguments", "parameters"]),
)
def test_any_json_object_is_parsed(
    value: dict[str, object], indent: int | None, ascii_only: bool, key: str
) -> None:
    written = json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    result = parse_pieces([json.dumps({"name": "f"})[:-1] + f', "{key}": {written}}}'])

    assert result.calls == [("f", written)]
    assert result.called


def test_a_million_brackets_are_parsed() -> None:
    result = parse_pieces(['{"name": "f", "arguments": {"a": ' + "[" * 100_000])

    assert result.names == ["f"]
    assert not result.called
