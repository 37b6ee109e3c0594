from __future__ import annotations

import json
import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.grammar import Grammar, GrammarBuilder
from inference_service.constraints.json_schema.facts import Counts
from inference_service.constraints.json_schema.strings import string_node
from inference_service.constraints.regex import found_text
from tests.inference_service.constraints.derivation import Sampler, matches


def json_string(pattern: str, length: Counts | None = None) -> Grammar:
    node = string_node([found_text(pattern)], length or Counts(), ())
    return GrammarBuilder().build(node)


PATTERNS = [
    "abc",
    "a|bc|",
    "(?:yes|no)!?",
    "(a)(?:b)(?P<name>c)(?<other>d)",
    "[a-f0-9]{8}-[a-f0-9]{4}",
    "[^a-z]{2}x",
    "[]]".replace("[]]", r"[\]\[\-^]"),
    r"[a\-z]+",
    r"\d+(?:\.\d{1,2})?",
    r"\w+\s\W\D\S",
    r"[\w.+-]+@[^\s@]+",
    r"[^\d\s]{1,3}",
    r"[^\W_]",
    r"\x41\u00e9\n\t",
    "a*?b+?c??d{2}?e{1,3}f{2,}",
    "^anchored$",
    "^a|b$",
    "(^a|b)c",
    "(?:^(?:x|y)$)",
    "日本[ぁ-ん]{1,4}😀",
    r"\$\^\.\/\-",
    "x{0,3}",
    ".{3}",
    "}a]",
    "(a*)*b",
    "a(?=b).c?",
    "^(?!ab)[a-c]{1,3}$",
    r"^(?=.*\d)(?=.*[a-z]).{2,5}$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_generated_texts_match_the_whole_pattern(pattern: str) -> None:
    grammar = compile_constraint(ConstraintKind.REGEX, pattern)
    python = re.compile(pattern.replace("(?<", "(?P<"))
    for text in [grammar.shortest_text(), *(Sampler(grammar, seed).sentence() for seed in range(80))]:
        assert python.fullmatch(text)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_generated_json_strings_contain_the_pattern(pattern: str) -> None:
    grammar = json_string(pattern)
    python = re.compile(pattern.replace("(?<", "(?P<"))
    for text in [grammar.shortest_text(), *(Sampler(grammar, seed).sentence() for seed in range(80))]:
        found = json.loads(text)
        assert isinstance(found, str)
        assert python.search(found)


@pytest.mark.parametrize(
    ("pattern", "texts", "others"),
    [
        ("a|bc|", ["a", "bc", ""], ["b", "abc"]),
        ("[^a-z]x", ["Ax", "éx", "😀x"], ["ax", "x"]),
        (r"\d{2,}", ["12", "123456"], ["1", "1a", "١٢"]),
        (r"[^\s]+", ["é", "a-b"], ["a b", "\u3000"]),
        ("a.c", ["abc", "a😀c"], ["a\nc", "ac"]),
        ("^a$", ["a"], ["aa", "ab"]),
        ("(?:ab){2,3}", ["abab", "ababab"], ["ab", "abababab"]),
        ("x{300,600}", ["x" * 300, "x" * 450, "x" * 600], ["x" * 299, "x" * 601]),
        ("(?!ab)[a-c]+", ["a", "ba", "aab"], ["ab", "abc", ""]),
        (r"((\w{1,60}){1,60}){1,60}", ["a", "a" * 300], ["", "a b"]),
        ("x{513}", ["x" * 513], ["x" * 512, "x" * 514]),
    ],
)
def test_a_pattern_describes_the_whole_text(pattern: str, texts: list[str], others: list[str]) -> None:
    grammar = compile_constraint(ConstraintKind.REGEX, pattern)
    assert all(matches(grammar, text) for text in texts)
    assert not any(matches(grammar, text) for text in others)


REFUSED = [
    ("(a(?=b))", "position 2", "lookahead"),
    ("(?:x(?!b))y", "position 4", "lookahead"),
    ("(?!a)*", "position 0", "lookahead"),
    ("(?<=a)b", "position 0", "lookbehind"),
    ("(?<!a)b", "position 0", "lookbehind"),
    (r"(a)\1", "position 3", "backreference"),
    ("(?P<n>a)(?P=n)", "position 8", "backreference"),
    ("(?i)a", "position 0", "flag"),
    ("(?i:a)", "position 0", "flag"),
    ("(?>a)", "position 0", "atomic"),
    ("(?#a)", "position 0", "comment"),
    (r"a\b", "position 1", r"\\b"),
    (r"\Aa", "position 0", r"\\A"),
    (r"\p{L}", "position 0", "Unicode class"),
    (r"\q", "position 0", "escape"),
    ("a^b", "position 1", r"\^ stands inside"),
    ("a$b", "position 2", r"\$ stands inside"),
    ("(^a)*", "position 0", "anchor"),
    ("a++", "position 2", "possessive"),
    ("a**", "position 2", "quantifier"),
    ("*a", "position 0", "nothing for"),
    ("a{2,1}", "position 1", "below"),
    ("a{,3}", "position 1", "begins no repetition"),
    ("a{70000}", "position 1", "65536"),
    ("a{99999999999}", "position 1", "65536"),
    ("(a", "position 0", "not closed"),
    ("a)", "position 1", "no group"),
    ("[a", "position 0", "not closed"),
    ("[]", "position 0", "empty set"),
    ("[z-a]", "position 1", "range"),
    (r"[\d-z]", "position 1", "range"),
    ("[[:alpha:]]", "position 1", "POSIX"),
    ("a\\", "position 1", "backslash"),
    (r"\ud800", "position 0", "character"),
    ("(" * 70 + ")" * 70, "position 64", "nested"),
]


@pytest.mark.parametrize(("pattern", "path", "message"), REFUSED)
def test_unsupported_syntax_is_refused_by_name_and_position(pattern: str, path: str, message: str) -> None:
    with pytest.raises(ConstraintError, match=message) as caught:
        compile_constraint(ConstraintKind.REGEX, pattern)
    assert caught.value.path == path


def test_length_bounds_apply_together_with_a_pattern() -> None:
    grammar = json_string("^ab", Counts(4, 6))
    assert matches(grammar, '"abcd"')
    assert not matches(grammar, '"abc"')
    assert not matches(grammar, '"abcdefg"')


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from(r"ab|()[]^$*+?{}1,\d.-"), max_size=12), st.integers(0, 2**16))
def test_every_text_is_refused_or_matches_the_same_as_in_python(pattern: str, seed: int) -> None:
    try:
        grammar = compile_constraint(ConstraintKind.REGEX, pattern)
    except ConstraintError:
        return
    text = Sampler(grammar, seed).sentence()
    with warnings.catch_warnings():
        # Python warns that the meaning of `[[` may change.
        warnings.simplefilter("ignore", FutureWarning)
        python = re.compile(pattern)
    assert python.fullmatch(text)
