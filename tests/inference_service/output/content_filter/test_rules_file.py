"""The file of rules: its content, and its errors in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_service.output.content_filter import rules_file
from inference_service.output.content_filter.rules import Action, Place
from inference_service.output.content_filter.rules_file import parse_rules
from lodestream_common.errors import OperatorError

TOML = Path("filter.toml")


def test_a_rule_with_all_members_is_read() -> None:
    [rule] = parse_rules(
        b"""
        [[rules]]
        name = "secrets"
        phrases = ["heron", "egret"]
        patterns = ['sk-[a-z]{3,9}']
        action = "redact"
        replacement = ""
        applies_to = "output"
        keys = ["alice"]
        ignore_case = false
        whole_word = true
        """,
        TOML,
    )

    assert (rule.name, rule.order, rule.phrases) == ("secrets", 0, ("heron", "egret"))
    assert (rule.patterns, rule.action, rule.replacement) == (("sk-[a-z]{3,9}",), Action.REDACT, "")
    assert (rule.place, rule.keys) == (Place.OUTPUT, frozenset({"alice"}))
    assert (rule.ignore_case, rule.whole_word) == (False, True)


def test_the_defaults_of_a_rule() -> None:
    """It applies to everybody, to prompts and output, ignores case, and matches inside words."""
    [rule] = parse_rules(b"[[rules]]\nname = 'a'\nphrases = ['b']\naction = 'redact'", TOML)

    assert (rule.replacement, rule.place, rule.keys) == ("[redacted]", Place.BOTH, None)
    assert (rule.ignore_case, rule.whole_word) == (True, False)


def test_the_example_of_the_documentation_is_valid() -> None:
    example = (rules_file.__doc__ or "").partition("\n\n")[2]

    assert [rule.name for rule in parse_rules(example.encode(), TOML)] == ["project names", "secrets"]


def one(**members: str) -> str:
    """A document of one rule named `r` with some members changed, or removed if empty."""
    rule = {"name": "'r'", "phrases": "['x']", "action": "'block'", **members}
    return "[[rules]]\n" + "\n".join(f"{name} = {value}" for name, value in rule.items() if value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (one(frases="['x']"), "rules[0] 'r': frases: unknown member; did you mean phrases?"),
        (one(severity="3"), "rules[0] 'r': severity: unknown member; known are name, phrases, patterns, "),
        ("rule = 1", "rule: unknown member; did you mean rules?"),
        (one(name=""), "rules[0].name: Field required"),
        (one(action=""), "rules[0] 'r': action: Field required"),
        (one(action="'drop'"), "rules[0] 'r': action: Input should be 'block' or 'redact'"),
        (one(applies_to="'all'"), "rules[0] 'r': applies_to: Input should be 'prompt', 'output' or 'both'"),
        (one(phrases=""), "rules[0] 'r': needs phrases or patterns"),
        (one(phrases="['x', '']"), "rules[0] 'r': phrases[1]: has nothing visible in it"),
        (one(phrases='["\\u200b"]'), "rules[0] 'r': phrases[0]: has nothing visible in it"),
        (one(phrases=f"['{'x' * 257}']"), "rules[0] 'r': phrases[0]: is longer than 256 characters"),
        (one(phrases="[1]"), "rules[0] 'r': phrases[0]: Input should be a valid string"),
        (one(patterns="['a', 'b+']"), "rules[0] 'r': patterns[1]: must not match more than 256 characters"),
        (one(patterns="['(a']"), "rules[0] 'r': patterns[0]: is not a regular expression: missing )"),
        (one(replacement="'x'"), "rules[0] 'r': a replacement is for the action redact only"),
        (one(whole_word="'yes'"), "rules[0] 'r': whole_word: Input should be a valid boolean"),
        (one(keys="'alice'"), "rules[0] 'r': keys: Input should be a valid list"),
        (one(name="' r'"), "rules[0] ' r': name: must be printable, with no space at either end"),
        (one() + "\n" + one(), "two rules have the name 'r'"),
        ("rules = [1]", "rules[0]: must be a table of members"),
        ("rules = 1", "rules: Input should be a valid list"),
        ("[[rules]", "is not valid TOML: Expected"),
        ("name = '\udcff'", "is not valid TOML: "),
    ],
)
def test_an_error_is_one_line_that_names_its_place(content: str, complaint: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_rules(content.encode("utf-8", "surrogateescape"), TOML)

    assert str(caught.value).startswith(f"content filter file filter.toml: {complaint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"[1]", b"{", b"null", b"\xff", b"[" * 100_000])
def test_invalid_json_is_an_error_of_one_line(content: bytes) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_rules(content, Path("filter.json"))

    assert "\n" not in str(caught.value)
