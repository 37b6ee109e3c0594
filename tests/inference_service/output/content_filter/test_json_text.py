"""In JSON rules match the unescaped strings, and redacted JSON stays valid."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.output.content_filter.rules import Action, Rule
from tests.support.filtering import Filtered, delta, rule, start
from tests.support.texts import THOROUGH, cuts

BIRD = rule("birds", phrases=("project heron", "😀 egret"))
SECRET = rule(
    "secrets", action=Action.REDACT, phrases=("project heron", "😀 egret"), replacement='"[\\gone]"\n'
)
DIGITS = rule("digits", action=Action.REDACT, patterns=("[0-9]{4,8}",), replacement="[number]")


def filtered(parts: list[str] | str, *rules: Rule) -> tuple[str, str | None]:
    """Filter the parts. Return the output and the rule that blocked."""
    output_filter = start(*rules)
    filtered = Filtered(output_filter)
    left = "".join(filtered.feed(delta(part)).text for part in parts) + filtered.flush().text
    return left, output_filter.blocked.rule if output_filter.blocked else None


def spelled(text: str) -> str:
    """The text with every character as an escape."""
    units = text.encode("utf-16-be")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


HIDDEN = [
    r"\u0070roject heron",
    r"projec\u0074 heron",
    r"project\u0020heron",
    spelled("Project Heron"),
    r"\ud83d\ude00 egret",
    "😀 e\\u0067ret",
]
AROUND = [
    '{"a": "%s"}',
    '{"%s": 1}',
    '["x", {"b": ["say %s now"]}]',
    '"%s"',
    'Let me see.\n{"name": "f", "arguments": {"a": "%s"}}',
    '<tool_call>\n{"name": "f", "arguments": {"a": ["x\\n%s"]}}\n</tool_call>',
    '{"name": "f", "arguments": {}}; {"name": "f", "arguments": {"q": "\\"%s\\""}}',
]


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("around", AROUND)
def test_escaped_text_is_blocked(hidden: str, around: str) -> None:
    text = around % hidden

    for parts in ([text], list(text)):
        left, blocked = filtered(parts, BIRD)
        assert blocked == "birds"
        assert left == text[: text.index(hidden)]


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("around", AROUND[:4])
def test_redacted_text_stays_json(hidden: str, around: str) -> None:
    text = around % hidden

    for parts in ([text], list(text)):
        left, blocked = filtered(parts, SECRET)
        assert blocked is None
        assert json.loads(left) == json.loads(around % json.dumps(SECRET.replacement)[1:-1])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"card": 41111111}', '{"card": "[number]"}'),
        ('{"card": 141111111111, "b": [1234, 5]}', '{"card": "[number]", "b": ["[number]", 5]}'),
        ('{"card": -12345.5e3}', '{"card": "[number]"}'),
        ('{"card": "x4111-1234"}', '{"card": "x[number]-[number]"}'),
        (r'{"card": "\u0034111"}', '{"card": "[number]"}'),
        ("[12345", '["[number]"'),
    ],
)
def test_redacted_numbers_become_strings(text: str, left: str) -> None:
    for parts in ([text], list(text)):
        assert filtered(parts, DIGITS) == (left, None)


def test_a_match_that_cannot_be_redacted_within_json_blocks() -> None:
    across = rule("across", action=Action.REDACT, patterns=('"a": ?"x"',))

    for parts in (['{"b": 1, "a": "x"}'], list('{"b": 1, "a": "x"}')):
        assert filtered(parts, across) == ('{"b": 1, ', "across")


@pytest.mark.parametrize(
    "text",
    [
        "It said {project heron} today",
        "[see project heron]",
        '{"a": project heron',
        '{"a": "open\nproject heron"',
        "{] project heron",
        r'He wrote "\u0070roject" and project heron.',
    ],
)
def test_text_outside_of_json_is_redacted(text: str) -> None:
    for parts in ([text], list(text)):
        left, blocked = filtered(parts, SECRET)
        assert (left, blocked) == (text.replace("project heron", SECRET.replacement), None)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet='ab😀\\"\n/ 1', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="ab😀", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
RULES = (
    rule("one", action=Action.REDACT, phrases=("ab", "😀"), replacement='"#\\'),
    rule("two", action=Action.REDACT, patterns=("a[^b]", "b.?1"), order=1, replacement=""),
)


@pytest.mark.slow
@THOROUGH
@given(data=st.data(), value=values, ascii_only=st.booleans())
def test_any_json_stays_json_at_every_cut(data: st.DataObject, value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    parts = data.draw(cuts(text))

    left, blocked = filtered(parts, *RULES)

    assert (left, blocked) == filtered([text], *RULES)
    if isinstance(value, str | list | dict) and blocked is None:
        filtered_value = json.loads(left)
        assert not any("😀" in string or "ab" in string for string in strings(filtered_value, value))


def strings(filtered_value: Any, value: Any) -> list[str]:
    if isinstance(filtered_value, str):
        return [filtered_value.replace('"#\\', "|")]
    parts = (
        [*filtered_value.keys(), *filtered_value.values()]
        if isinstance(filtered_value, dict)
        else filtered_value
        if isinstance(filtered_value, list)
        else []
    )
    return [string for part in parts for string in strings(part, value)]


@pytest.mark.slow
def test_long_strings_take_linear_time() -> None:
    text = '{"a": "' + "\\u0061" * 50_000 + '"}'
    assert filtered(list(text), rule("x", action=Action.REDACT, phrases=("aab",)))[0] == text


WORDS = (
    "hello ",
    "{",
    '"n',
    "ame",
    '": "',
    '", ',
    "}",
    "[1",
    "2",
    "tru",
    "e",
    "bad",
    " ",
    "\n",
    "\\u00",
    "61",
    "漢",
)


@THOROUGH
@given(data=st.data(), text=st.lists(st.sampled_from(WORDS), max_size=14).map("".join))
def test_the_result_does_not_depend_on_the_cuts_if_a_match_begins_outside_of_json(
    data: st.DataObject, text: str
) -> None:
    """This holds also if text that looks like JSON turns out to be none after the match."""
    rules = [
        rule("across", action=Action.REDACT, patterns=("o {1,3}.{0,3}", "[a-z]{2,4}[^a-z]{1,4}"), order=0),
        rule("phrases", action=Action.REDACT, phrases=("ame", "2tru", "1", 'a"'), order=1),
        rule("bad", phrases=("bad e", "}{"), order=2),
    ][data.draw(st.integers(0, 2)) :]

    assert filtered(data.draw(cuts(text)), *rules) == filtered([text], *rules)
