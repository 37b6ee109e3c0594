from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.grammar import Grammar
from inference_service.constraints.nodes import (
    PLAIN_CHAR,
    Chars,
    Literal,
    Node,
    Ref,
    char_set,
    either,
    is_plain,
    overlap,
    repeat,
    seq,
)
from inference_service.constraints.notations.ebnf import to_ebnf
from inference_service.constraints.notations.gbnf import parse_gbnf
from tests.inference_service.constraints.derivation import error_of, follows, matches

ARITHMETIC = r"""
# an expression
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t]*
"""


def compiled(text: str) -> Grammar:
    return compile_constraint(ConstraintKind.GRAMMAR, text)


def test_a_grammar_keeps_its_meaning() -> None:
    grammar = compiled(ARITHMETIC)
    assert matches(grammar, "(a +12) *b_1= c\n")
    assert not matches(grammar, "(a +12 *b= c\n")
    assert grammar.shortest_text() == "a=a\n"


@pytest.mark.parametrize(
    ("source", "texts", "others"),
    [
        ('root ::= "a" | "b"\n  | "c"', ["a", "b", "c"], ["", "d"]),
        ('root ::= ("a"\n "b")?', ["", "ab"], ["a"]),
        ("root ::= .", ["a", "\n", "é", "😀"], ["", "ab"]),
        (r'root ::= "\x41\u00e9\U0001F600\"\\\n"', ['Aé😀"\\\n'], ["A"]),
        (r"root ::= [^a-c\]\\-]+", ["d^"], ["a", "]", "\\", "-", ""]),
        ("root ::= [a-]", ["a", "-"], ["b"]),
        ('root ::= "ab"{2} [0-9]{1,} "x"{0,1}', ["abab1", "abab12x"], ["ab1", "abab"]),
        ("root ::= | a_b\na_b ::= [x]", ["", "x"], ["xx"]),
        ('root ::= x "."\nx ::= "1" x | "1"', ["1.", "111."], ["."]),
        ('root ::= "a" # "b"\n# root ::= "c"\n', ["a"], ["b", "c"]),
        ('root ::= "a"\r\nunused ::= "b"\r\n', ["a"], ["b"]),
        ('root ::= ("x" "y"){300,600}', ["xy" * 300, "xy" * 512, "xy" * 600], ["xy" * 299, "xy" * 601]),
    ],
)
def test_each_construct_of_gbnf(source: str, texts: list[str], others: list[str]) -> None:
    grammar = compiled(source)
    assert all(matches(grammar, text) for text in texts)
    assert not any(matches(grammar, text) for text in others)


def test_rules_that_root_does_not_need_are_left_out() -> None:
    assert to_ebnf(compiled('root ::= "a"\nother ::= "b"')) == 'root ::= "a"\n'


REFUSED = [
    ("", "", "no rule named root"),
    ('other ::= "a"', "", "no rule named root"),
    ("root ::= item", "line 1, column 10", "not defined"),
    ('root ::= "a"\nroot ::= "b"', "line 2, column 1", "twice"),
    ('root ::= "a" other ::= "b"', "line 1, column 14", "line of its own"),
    ('root = "a"', "line 1, column 6", "looks like this"),
    ('"a"', "line 1, column 1", "a rule must begin here"),
    ('root ::= "a', "line 1, column 10", "looks like this"),
    ('root ::= ("a"', "line 1, column 10", "not closed"),
    ('root ::= "a")', "line 1, column 13", "a rule must begin here"),
    ("root ::= *", "line 1, column 10", "an item is expected"),
    ('root ::= "a"**', "line 1, column 14", "one quantifier"),
    ('root ::= ""*', "line 1, column 12", "nothing to repeat"),
    ('root ::= "a"{3,2}', "line 1, column 13", "below"),
    ('root ::= "a"{,2}', "line 1, column 13", "looks like this"),
    ('root ::= "a"{65537}', "line 1, column 13", "65536"),
    ('root ::= "a"{99999999999999999999}', "line 1, column 13", "65536"),
    (r'root ::= "\q"', "line 1, column 10", "escape"),
    (r'root ::= "\x0"', "line 1, column 10", "escape"),
    (r'root ::= "\u0000"', "line 1, column 10", "character"),
    (r'root ::= "\ud800"', "line 1, column 10", "character"),
    (r'root ::= "\U00110000"', "line 1, column 10", "character"),
    (r'root ::= "\u0004"', "line 1, column 10", "character"),
    ("root ::= []", "line 1, column 10", "no character"),
    ("root ::= [z-a]", "line 1, column 10", "range"),
    ("root ::= <|im_start|>", "line 1, column 10", "looks like this"),
    ("root ::= <[1]>", "line 1, column 10", "looks like this"),
    ('root ::= (="a")', "line 1, column 11", "looks like this"),
    ('root ::= true\ntrue ::= "a"', "line 1, column 10", "have this name"),
    ('root ::= a-b a_b\na-b ::= "x"', "line 1, column 14", "differ only"),
    ('root ::= root "a" | "b"', "line 1, column 1", "left recursion"),
    ('root ::= a\na ::= b "x" | "y"\nb ::= a', "line 2, column 1", "left recursion"),
    ('root ::= a root "x" | "y"\na ::= b\nb ::= "" | "z"', "line 1, column 1", "left recursion"),
    ("root ::= " + "(" * 70 + '"a"' + ")" * 70, "line 1, column 74", "nested"),
    ('root ::= "(" root ")"', "line 1, column 1", "nothing satisfies"),
]


@pytest.mark.parametrize(("source", "path", "message"), REFUSED)
def test_an_invalid_grammar_is_refused_with_the_position(source: str, path: str, message: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        compiled(source)
    assert caught.value.path == path
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("source", "text", "other"),
    [
        ('root ::= "a" | item\nitem ::= "(" item ")"', "a", "("),
        ('root ::= ("a"?)*', "aa", "b"),
        ('root ::= a{2,3}\na ::= "b"*', "bbbbb", "c"),
        ('root ::= "(" root ")" | "(" root "]" | "x"', "((x])", "((x)"),
        ("root ::= " + "[a-z]* " * 30 + '"!"', "abc!", "abc"),
        (
            "root ::= r0\n"
            + "".join(f'r{i} ::= r{i + 1}? r{i + 1}? "x"\n' for i in range(40))
            + 'r40 ::= "y"',
            "x",
            "y",
        ),
        ('root ::= "a" | "ab" rest\nrest ::= "c" rest | "bc" | ""', "abcbc", "abcb"),
    ],
    ids=["endless branch", "empty repetition", "empty rule", "brackets", "stars", "many ways", "lexemes"],
)
def test_grammars_that_once_crashed_an_engine(source: str, text: str, other: str) -> None:
    """llama.cpp's own parser crashed the process with some of these, or never returned."""
    grammar = compiled(source)
    assert grammar.matches(text)
    assert not grammar.matches(other)
    assert follows(grammar, text)
    assert not follows(grammar, other)


BROKEN_GRAMMARS = {
    "empty": "",
    "unclosed": 'root ::= ("a"\n',
    "no root": 'start ::= "a"\n',
    "undefined": "root ::= nothing\n",
    "left recursion": 'root ::= root "a"\n',
    "endless": 'root ::= "a" root\n',
    "empty set": 'root ::= "a" [z-a]\n',
    "NUL": r'root ::= "a\x00"',
    "no character": r'root ::= "\U00FFFFFF"',
    "token": "root ::= <[5]>\n",
    "deep": f'root ::= {"(" * 50_000}"a"{")" * 50_000}\n',
}
"""Grammars that crashed an engine's process or stalled its slots before they were refused."""


@pytest.mark.parametrize("source", BROKEN_GRAMMARS.values(), ids=BROKEN_GRAMMARS)
def test_a_broken_grammar_is_refused_every_time(source: str) -> None:
    for _ in range(2):
        with pytest.raises(ConstraintError):
            compiled(source)


def test_a_hostile_grammar_is_refused_in_time() -> None:
    hostile = [
        "root ::= " + '("a"|' * 60 + '"b"' + ")" * 60,
        "root ::= " + "a " * 30_000 + '\na ::= "b"',
        "root ::= " + " | ".join(f'"{i}"' for i in range(8_000)),
        "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(3_000)),
        "root ::= " + "[a-z]{256}" * 6_000,
        "root ::= " + '"a"{65536} ' * 5_000,
    ]
    begun = time.monotonic()
    for source in hostile:
        assert len(error_of(ConstraintKind.GRAMMAR, source)) < 1_000
    assert time.monotonic() - begun < 30


_CHARS = st.characters(exclude_categories=["Cs"]).filter(is_plain)
_LITERALS = st.text(_CHARS, min_size=1, max_size=4).map(Literal)
_SETS: st.SearchStrategy[Node] = (
    st.lists(st.tuples(_CHARS, _CHARS), min_size=1, max_size=4)
    .map(lambda pairs: overlap(PLAIN_CHAR, char_set((ord(min(pair)), ord(max(pair))) for pair in pairs)))
    .filter(lambda found: bool(found.ranges))
)
_NODES: st.SearchStrategy[Node] = st.recursive(
    st.one_of(_LITERALS, _SETS, st.just(Ref("other"))),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(lambda nodes: seq(*nodes)),
        st.lists(inner, min_size=2, max_size=4).map(lambda nodes: either(*nodes)),
        st.tuples(inner, st.integers(0, 3), st.none() | st.integers(3, 5)).map(lambda args: repeat(*args)),
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(_NODES)
def test_a_printed_grammar_reads_back_as_itself(node: Node) -> None:
    rules = {"root": node, "other": Chars(((0x61, 0x7A),))}
    assert parse_gbnf(to_ebnf(Grammar(rules))).rules == rules


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from('root:=|()[]"\\ab*+?{}1,.\n #^-_'), max_size=40))
def test_every_text_is_compiled_or_refused(tail: str) -> None:
    try:
        grammar = compiled(f"root ::= {tail}")
    except ConstraintError:
        return
    assert matches(grammar, grammar.shortest_text())


def test_recursion_with_distinct_beginnings_is_accepted() -> None:
    grammar = compiled('root ::= "(" root ")" | "[" root "]" | number\nnumber ::= [0-9]+ | [1-9] [0-9]*\n')
    assert matches(grammar, "([(12)])")
