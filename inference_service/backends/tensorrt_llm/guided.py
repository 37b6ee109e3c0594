"""Grammars, which the engine obeys by xgrammar.

An error inside an engine step fails every request of its batch, and reading a grammar is part of a step.
So each one is read here first by the same library: one that cannot be read fails its own request only.
Where that is not possible, grammars are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from inference_service.constraints.grammar import Grammar

KEPT = 64
"""Grammars that are known to be readable."""
MAX_TEXT = 2_000_000
"""Characters of a grammar's text."""


class GuidedDecoding:
    """Makes the parameters of guided decoding.

    Args:
        params: the library's class of them.
        read: xgrammar's reader of grammars, which raises what it cannot read.

    """

    def __init__(self, params: Callable[..., Any], read: Callable[[str], object]) -> None:
        self._params = params
        self._read = read
        self._try = lru_cache(maxsize=KEPT)(self._read_once)

    def check(self, grammar: Grammar) -> None:
        """Print and read a grammar. Blocks, for long if it is large.

        Raises:
            Exception: it cannot be printed or read.

        """
        self._try(grammar)

    def params(self, grammar: Grammar) -> Any:
        """What goes with a request; `grammar` has passed the check."""
        return self._params(grammar=self._try(grammar))

    def _read_once(self, grammar: Grammar) -> str:
        # Imported late: whoever never sends a grammar need not wait for it.
        from inference_service.constraints.notations.ebnf import to_ebnf

        text = to_ebnf(grammar)
        if len(text) > MAX_TEXT:
            raise ValueError("the grammar is too large")
        self._read(text)
        return text
