"""Which grammars may enter the engine: what gets past the guard ends the process."""

from __future__ import annotations

import pytest

from inference_service.backends.errors import EngineGrammarError
from inference_service.backends.llama_cpp import ambiguity
from inference_service.backends.llama_cpp.grammar import GrammarGuard
from inference_service.grammar.parser import parse_grammar
from tests.backends.contract_options import BROKEN_GRAMMARS, LETTERS, YES_OR_NO

GONE = frozenset(b"z\xc3")
"""Bytes that no token stands for; without the second one, U+00C0 to U+00FF cannot be written."""


class Gaps:
    """A tokenizer whose ids are bytes, some of which are missing."""

    vocabulary_size = 256

    def encode_text(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id in GONE else bytes([token_id])


@pytest.fixture(scope="module")
def guard() -> GrammarGuard:
    return GrammarGuard(Gaps())


@pytest.mark.parametrize("grammar", [YES_OR_NO, LETTERS, "root ::= [xyz]\n", 'root ::= "日本語😀" [à-ÿa]\n'])
def test_grammar_that_the_model_can_follow_passes(guard: GrammarGuard, grammar: str) -> None:
    guard.check(grammar)


@pytest.mark.parametrize(
    "grammar", ['root ::= "az"\n', 'root ::= "a" ([z] | "b")\n', "root ::= [à-ÿ]\n", 'root ::= "é"?\n']
)
def test_grammar_with_what_no_token_stands_for_is_refused(guard: GrammarGuard, grammar: str) -> None:
    with pytest.raises(EngineGrammarError, match="no token for"):
        guard.check(grammar)


@pytest.mark.parametrize("grammar", BROKEN_GRAMMARS.values(), ids=BROKEN_GRAMMARS)
def test_broken_grammar_is_refused_every_time(guard: GrammarGuard, grammar: str) -> None:
    for _ in range(2):
        with pytest.raises(EngineGrammarError, match="cannot follow"):
            guard.check(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        f"root ::= {'[a-z]* ' * 16}\n",
        f'root ::= "x" {"[a-z]* " * 16}\n',
        f"root ::= {'y ' * 16}\ny ::= [a-z]*\n",
        f"""root ::= {'"a"? ' * 30}"b"\n""",
        f"root ::= ({'[a-z]? ' * 30}[0-9])*\n",
        f"root ::= ({' | '.join(f'[a-{last}]' for last in 'defghi')})*\n",
    ],
    ids=["stars", "behind a text", "rules", "options", "repeated", "the same"],
)
def test_grammar_that_reads_the_same_in_too_many_ways_is_refused(guard: GrammarGuard, grammar: str) -> None:
    """Each of these would keep the engine busy for up to a minute with a few tokens."""
    with pytest.raises(EngineGrammarError, match="too many ways"):
        guard.check(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + " | ".join(f'"key{n}"' for n in range(500)),
        'root ::= "x" [a-y]{0,200} [0-9]{0,200} "."\n',
        "root ::= ([a-y]+)*\n",
        "root ::= [a-y]* [a-y]* [a-y]*\n",
        """root ::= "{" ("a" ","?)? ("b" ","?)? ("c" ","?)? ("d" ","?)? ("e" ","?)? "}"\n""",
    ],
    ids=["alternatives", "counted", "nested", "few stars", "optional parts"],
)
def test_grammar_of_few_ways_passes(guard: GrammarGuard, grammar: str) -> None:
    guard.check(grammar)


def test_no_character_beyond_ascii_passes_without_all_bytes_that_go_on() -> None:
    class AsciiOnly(Gaps):
        def token_bytes(self, token_id: int) -> bytes:
            return bytes([token_id]) if token_id != 0x80 else b""

    with pytest.raises(EngineGrammarError, match="no token for"):
        GrammarGuard(AsciiOnly()).check('root ::= "é"\n')


def test_a_grammar_that_takes_too_long_to_judge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = parse_grammar('root ::= [a-z] [a-z] "b"\n').rules
    assert not ambiguity.is_too_ambiguous(rules)

    monkeypatch.setattr(ambiguity, "MOST_WORK", 1)
    assert ambiguity.is_too_ambiguous(rules)
