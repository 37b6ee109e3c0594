"""The content filter of a choice: equal at every cut, and no part of a match is ever visible."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.output.content_filter.rules import Action, Rule
from inference_service.output.events import Delta
from tests.support.filtering import LETTERS, Filtered, delta, expected, joined, rule, rule_sets, start, tokens
from tests.support.texts import THOROUGH, cuts, hard_texts

REDACT = Action.REDACT
TEXTS = st.one_of(
    st.text(alphabet=LETTERS, max_size=30), hard_texts(5), st.text(alphabet="aAßẞſSİıiﬁf", max_size=12)
)


def run(parts: list[str], rules: list[Rule]) -> tuple[Delta, str | None, frozenset[str]]:
    """Filter the parts. Return the joined output, the rule that blocked, and the rules that redacted."""
    output_filter = start(*rules)
    filtered = Filtered(output_filter)
    left = joined([*map(filtered.feed, tokens(parts)), filtered.flush()])
    return left, output_filter.blocked.rule if output_filter.blocked else None, output_filter.redacted


@THOROUGH
@given(data=st.data(), text=TEXTS)
def test_filtered_output_does_not_depend_on_the_cuts(data: st.DataObject, text: str) -> None:
    """Text, tokens and verdict equal those of a brute-force filter on the whole text."""
    rules = data.draw(rule_sets(text))
    parts = data.draw(cuts(text))

    left, blocked, redacted = run(parts, rules)

    reference = expected(parts, rules)
    assert left.text == reference.text
    assert blocked == reference.rule
    assert redacted == reference.redacted
    assert left.token_count == reference.count
    assert left.token_ids == reference.named
    assert [entry.token_id for entry in left.logprobs] == reference.named


@pytest.mark.parametrize("length", range(1, 12))
def test_every_cut_of_one_text(length: int) -> None:
    text = "xabaababcabcd ab"
    rules = [
        rule("one", phrases=("abab", "bc"), action=REDACT),
        rule("two", patterns=("aa?b{1,2}a",), action=REDACT, order=1, replacement="?"),
        rule("end", phrases=("d a",), order=2),
    ]
    parts = [text[at : at + length] for at in range(0, len(text), length)]

    left, blocked, _ = run(parts, rules)

    assert (left.text, blocked) == ("x?a[redacted]", "end")


@THOROUGH
@given(data=st.data(), text=TEXTS)
def test_a_token_is_released_with_the_end_of_its_text(data: st.DataObject, text: str) -> None:
    """The released tokens are always exactly those whose text was released or hidden."""
    rules = data.draw(rule_sets(text, [REDACT]))
    parts = data.draw(cuts(text))
    filtered = Filtered(start(*rules))
    counted, fed = 0, ""

    for piece in tokens(parts):
        fed += piece.text
        counted += filtered.feed(piece).token_count
        if filtered.filter.blocked is not None:
            # Text that begins like JSON but is none ends at a match inside it.
            break
        ends = [len("".join(parts[: n + 1])) for n in range(len(parts))]
        decided = len(fed) - filtered.filter.held
        assert sum(end < decided for end in ends) <= counted <= sum(end <= decided for end in ends)


@THOROUGH
@given(data=st.data(), text=st.text(alphabet="ab漢😀", max_size=24))
def test_only_text_that_may_become_a_match_is_held_back(data: st.DataObject, text: str) -> None:
    """The held-back text is the beginning of a phrase."""
    phrases = data.draw(st.lists(st.text(alphabet="ab漢😀", min_size=1, max_size=6), min_size=1, max_size=4))
    filtered = Filtered(start(rule(phrases=tuple(phrases), action=REDACT)))

    for end, char in enumerate(text, 1):
        filtered.feed(delta(char))
        tails = [text[at:end] for at in range(end)]
        open_tails = [t for t in tails if any(p.startswith(t) and p != t for p in phrases)]
        assert filtered.filter.held == max(map(len, open_tails), default=0)


def test_a_match_across_tokens_is_never_visible() -> None:
    filtered = Filtered(start(rule("secret", phrases=("project heron",))))

    shown = [filtered.feed(piece).text for piece in tokens(["A", " pro", "ject ", "her", "on", " flies"])]

    assert shown == ["A", " ", "", "", "", ""]
    assert filtered.filter.blocked is not None
    assert filtered.filter.blocked.rule == "secret"
    assert not filtered.flush()


def test_text_that_turns_out_to_be_no_match_is_released() -> None:
    filtered = Filtered(start(rule(phrases=("project heron",), patterns=("[0-9]{4}",))))

    assert filtered.feed(delta("the project her", [1], 1)) == delta("the ", [], 0)
    assert filtered.feed(delta("b 123", [2], 1)) == delta("project herb ", [1], 1)
    assert filtered.flush() == delta("123", [2], 1)
    assert filtered.filter.blocked is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [("bad", ""), ("bad end", ""), ("a bad", "a "), ("badly bad", ""), ("", ""), ("ba", "ba")],
)
def test_blocked_output_is_cut_before_the_match(text: str, shown: str) -> None:
    left, blocked, _ = run([text], [rule(phrases=("bad",))])

    assert left.text == shown
    assert blocked == ("rule" if "bad" in text else None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("bad", "*"),
        ("bad end", "* end"),
        ("a bad", "a *"),
        ("badbad", "*"),
        ("bad bad", "* *"),
        ("babad", "ba*"),
        ("badger", "+"),
        ("abadger", "+"),
        ("abadgex", "a*gex"),
    ],
)
def test_matches_are_replaced_by_the_replacement(text: str, shown: str) -> None:
    """Overlapping and adjacent matches share the replacement of the first one."""
    rules = [
        rule(phrases=("bad",), action=REDACT, replacement="*"),
        rule(
            "longer", phrases=("abadger",), patterns=("badge[rt]",), action=REDACT, replacement="+", order=-1
        ),
    ]

    for parts in ([text], list(text)):
        assert run(parts, rules)[0].text == shown


@pytest.mark.parametrize(
    ("block", "redact", "shown"),
    [
        ("cd", "bcde", "a*"),  # the block lies inside
        ("abc", "cde", ""),  # it begins first
        ("def", "bcde", "a*"),  # it begins later
        ("bc", "bcdef", "a"),  # they begin together
        ("bcdef", "bc", "a"),
        ("gh", "bc", "a*def"),  # they have nothing in common
    ],
)
def test_blocks_and_redactions_that_overlap(block: str, redact: str, shown: str) -> None:
    rules = [
        rule("redact", phrases=(redact,), action=REDACT, replacement="*"),
        rule("block", phrases=(block,), order=1),
    ]

    for parts in (["abcdefgh"], list("abcdefgh"), ["abcd", "efgh"]):
        left, blocked, _ = run(parts, rules)
        assert (left.text, blocked) == (shown, "block")


def test_tokens_of_hidden_text_are_counted_without_ids_and_log_probabilities() -> None:
    left, _, redacted = run(["a ", "b", "ad", "!", " end"], [rule(phrases=("bad!",), action=REDACT)])

    assert left.text == "a [redacted] end"
    assert left.token_count == 5
    assert left.token_ids == [0, 4]
    assert [entry.token_id for entry in left.logprobs] == [0, 4]
    assert redacted == {"rule"}


def test_a_partly_hidden_token_has_no_id() -> None:
    left, _, _ = run(["ab", "ad", " x", " y"], [rule(phrases=("bad ",), action=REDACT, replacement="")])

    assert (left.text, left.token_ids, left.token_count) == ("ax y", [3], 4)


def test_a_token_beside_hidden_text_has_its_id() -> None:
    """This holds also if both were held back and a token without text is between them."""
    rules = [rule(phrases=("b", "abcd"), action=REDACT, replacement="*")]

    left, _, _ = run(["a", "", "b", "", "c", "x"], rules)

    assert (left.text, left.token_ids, left.token_count) == ("a*cx", [0, 1, 3, 4, 5], 6)


def test_a_token_without_text_inside_hidden_text_has_no_id() -> None:
    left, _, _ = run(["b", "", "b"], [rule(phrases=("bb",), action=REDACT)])

    assert (left.token_ids, left.token_count) == ([], 3)


def test_tokens_of_a_blocked_match_are_not_sent() -> None:
    left, _, _ = run(["so ", "ba", "d"], [rule(phrases=("bad",))])

    assert (left.text, left.token_ids, left.token_count) == ("so ", [0], 1)


def test_after_a_block_nothing_is_sent() -> None:
    filtered = Filtered(start(rule(phrases=("bad",))))
    filtered.feed(delta("bad", [1], 1))

    assert not filtered.feed(delta("good", [2], 1))
    assert not filtered.flush()


@pytest.mark.parametrize(
    ("phrase", "text", "shown"),
    [
        ("straße", "Die STRASSE hier", "Die * hier"),
        ("STRASSE", "Die straße, Straẞe", "Die *, *"),
        ("istanbul", "in I\u0307stanbul", "in I\u0307stanbul"),
        ("İstanbul", "in i\u0307stanbul, İSTANBUL", "in *, *"),
        ("café", "CAFE\u0301 café", "* *"),
        ("cafe\u0301", "Café!", "*!"),
        ("file", "a ﬁle, a ｆｉｌｅ", "a *, a *"),
        ("ile", "a ﬁle", "a *"),  # a match in half of a ligature covers the whole
        ("heron", "he\u200bro\u00adn he\ufe0fron", "* *"),
        ("two words", "two\nwords two\u00a0words", "* *"),
        ("👍", "so 👍🏽!", "so *🏽!"),
        ("👩\u200d👧", "the 👩\u200d👧.", "the *."),
        ("ΣΑΣ", "σας", "*"),
    ],
)
def test_all_spellings_of_a_phrase_match(phrase: str, text: str, shown: str) -> None:
    """Offsets stay correct for characters whose case folding has another length."""
    for parts in ([text], list(text)):
        assert run(parts, [rule(phrases=(phrase,), action=REDACT, replacement="*")])[0].text == shown


@pytest.mark.parametrize(
    ("options", "text", "shown"),
    [
        ({"phrases": ("Bad",), "ignore_case": False}, "bad Bad BAD", "bad * BAD"),
        ({"patterns": ("B[a-z]d",), "ignore_case": False}, "bad Bad BAD", "bad * BAD"),
        ({"patterns": ("b[A-Z]d",)}, "bad Bad BAD", "* * *"),
        ({"phrases": ("ass", "ass hat"), "whole_word": True}, "class ass, ass hats", "class *, * hats"),
        ({"phrases": ("öl",), "whole_word": True}, "Öl köl ölig öl\u0301", "* köl ölig öl\u0301"),
        ({"patterns": (r"\d{3}",), "whole_word": True}, "123 1234 x123 (123)", "* 1234 x123 (*)"),
        ({"patterns": (r"\d\w\s",)}, "٣ж\u2003.", "*."),
        ({"patterns": ("aba",)}, "cababac", "c*c"),  # matches that overlap themselves
        ({"patterns": ("(a )?b1",), "whole_word": True}, "xa b1.", "xa *."),
    ],
)
def test_the_options_of_a_rule_change_its_matches(options: dict[str, Any], text: str, shown: str) -> None:
    for parts in ([text], list(text), [text[:4], text[4:]]):
        assert run(parts, [rule(action=REDACT, replacement="*", **options)])[0].text == shown


def test_text_with_surrogates_is_filtered() -> None:
    """A lone surrogate is unchanged and keeps its position."""
    rules = [rule(phrases=("bad",), patterns=("x.y",), action=REDACT, replacement="*")]

    assert run(["\ud800bad x\udfff", "y\udc00"], rules)[0].text == "\ud800* *\udc00"


def test_a_long_text_in_one_piece_is_filtered_completely() -> None:
    """Matches across the internal blocks are found, too."""
    text = ("x" * 1021 + "bad") * 5 + "y" * 1000 + "bad"

    left, _, _ = run([text], [rule(phrases=("bad",), action=REDACT, replacement="*")])

    assert left.text == text.replace("bad", "*")
