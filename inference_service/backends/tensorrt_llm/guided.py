"""Grammars, which the engine obeys by xgrammar.

An error inside an engine step fails every request of its batch, and reading a grammar is part of a step.
So each one is read here first, by our own rules, which also see that it can end, and by the same library:
one that cannot be read fails its own request only. Where that is not possible, grammars are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

KEPT = 64
"""Grammars that are known to be readable."""


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

    def check(self, grammar: str) -> None:
        """Read a grammar. Blocks, for long if it is large.

        Raises:
            Exception: it cannot be read, or never ends.

        """
        self._try(grammar)

    def params(self, grammar: str) -> Any:
        """What goes with a request; `grammar` has passed the check."""
        return self._params(grammar=grammar)

    def _read_once(self, grammar: str) -> None:
        # Imported late: whoever never sends a grammar need not wait for it.
        from inference_service.grammar.check import check_rules
        from inference_service.grammar.parser import parse_grammar

        parsed = parse_grammar(grammar)
        check_rules(parsed.rules, parsed.places)
        self._read(grammar)
