"""Grammars for the embedded engine, and the check of its answers."""

from __future__ import annotations

import pytest

from inference_service.backends.base import EngineGrammarError, EngineRequestError
from inference_service.backends.llama_cpp.grammar import AnswerReader, GrammarChecker
from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.grammar import Grammar
from inference_service.constraints.nodes import Chars, Sequence, Terminal


def regex(pattern: str) -> Grammar:
    return compile_constraint(ConstraintKind.REGEX, pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "yes|no",
        "[a-z]{0,200}[0-9]{0,200}!",
        "([a-z]*){30}",
        r"((\w{1,60}){1,60}){1,60}",
        r"(((ab?){1,60}){1,60}){1,60}",
        "(a?){30}b",
    ],
)
def test_a_formerly_too_complex_grammar_is_accepted(pattern: str) -> None:
    GrammarChecker().check(regex(pattern))


def test_a_grammar_that_the_library_cannot_parse_is_refused() -> None:
    empty = Grammar({"root": Terminal(Sequence((Chars(()), Chars(()))))})
    for _ in range(2):
        with pytest.raises(EngineGrammarError, match="cannot follow"):
            GrammarChecker().check(empty)


def test_an_answer_that_violates_the_grammar_is_an_error() -> None:
    reader = AnswerReader(regex("[a-c]{2}é"))
    reader.read("ab")
    reader.read("")
    with pytest.raises(EngineRequestError, match="too complex"):
        reader.read("c")


def test_a_partial_answer_is_matched() -> None:
    reader = AnswerReader(regex("[a-c]{2}é"))
    for piece in ("a", "b", "é"):
        reader.read(piece)
