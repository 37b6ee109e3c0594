"""Grammars that go into the embedded engine, and answers that are read beside it."""

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
def test_grammar_that_was_too_much_once_passes(pattern: str) -> None:
    GrammarChecker().check(regex(pattern))


def test_grammar_that_the_library_cannot_read_is_refused() -> None:
    empty = Grammar({"root": Terminal(Sequence((Chars(()), Chars(()))))})
    for _ in range(2):
        with pytest.raises(EngineGrammarError, match="cannot follow"):
            GrammarChecker().check(empty)


def test_answer_that_the_grammar_does_not_describe_is_not_passed_on() -> None:
    reader = AnswerReader(regex("[a-c]{2}é"))
    reader.read("ab")
    reader.read("")
    with pytest.raises(EngineRequestError, match="too complex"):
        reader.read("c")


def test_answer_in_pieces_is_read() -> None:
    reader = AnswerReader(regex("[a-c]{2}é"))
    for piece in ("a", "b", "é"):
        reader.read(piece)
