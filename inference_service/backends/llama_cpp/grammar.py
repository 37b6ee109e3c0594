"""Checks grammars and constrained answers with llguidance, the library that the engine uses.

llguidance fails when a grammar becomes too complex during decoding. llama.cpp then drops the constraint
and reports no error. So the backend parses each grammar with the same library before the engine gets it. It
also checks each answer: a request fails when its grammar does not describe the answer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from inference_service.backends.base import EngineGrammarError, EngineRequestError
from inference_service.constraints.grammar import Grammar
from inference_service.constraints.notations.lark import to_lark

_CACHED_RESULTS = 256
"""Grammars whose result is cached."""
_MAX_REASON = 200


class GrammarChecker:
    """Finds out which grammars the engine can follow. Safe in several threads."""

    def __init__(self) -> None:
        self._reason = lru_cache(maxsize=_CACHED_RESULTS)(_find_reason)

    def check(self, grammar: Grammar) -> None:
        """Check that the engine can follow a grammar. Takes up to a second for a large one.

        Raises:
            EngineGrammarError: it cannot.

        """
        reason = self._reason(to_lark(grammar))
        if reason:
            raise EngineGrammarError(f"the engine cannot follow this grammar: {reason}")


class AnswerReader:
    """Checks one answer against its grammar while the engine writes it."""

    def __init__(self, grammar: Grammar) -> None:
        # Imported late: a service without grammars need not wait for it.
        from llguidance import LLMatcher

        self._matcher = LLMatcher(_byte_tokenizer(), to_lark(grammar), log_level=0)

    def read(self, text: str) -> None:
        """Check the next text of the engine.

        Raises:
            EngineRequestError: the grammar does not describe this, or is too complex to check.

        """
        if text and not self._matcher.consume_tokens(list(text.encode())):
            raise EngineRequestError("the constraint became too complex for the engine to follow")


def _find_reason(lark: str) -> str:
    from llguidance import LLMatcher

    error: str = LLMatcher.validate_grammar(lark, _byte_tokenizer())
    return error.partition("\n")[0][:_MAX_REASON]


@lru_cache(maxsize=1)
def _byte_tokenizer() -> Any:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")
