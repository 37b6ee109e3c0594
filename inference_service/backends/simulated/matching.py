"""Chooses the simulated engine's answer under a grammar."""

from __future__ import annotations

from inference_service.backends.base import EngineGrammarError
from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.grammar import Grammar


def constrained(grammar: Grammar, wish: str | None) -> str:
    """The requested text if the grammar describes it, else a shortest text that it describes.

    Raises:
        EngineGrammarError: there are too many ways to read the wish by it.

    """
    try:
        fits = wish is not None and grammar.matches(wish)
    except ConstraintError as error:
        raise EngineGrammarError(f"the simulated engine cannot follow this grammar: {error}") from None
    return wish if wish is not None and fits else grammar.shortest_text()
