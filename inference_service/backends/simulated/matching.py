"""What a grammar generates."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from inference_service.backends.errors import EngineGrammarError
from inference_service.grammar.check import check_rules
from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.nodes import Chars, Choice, Literal, Node, Ref, Repeat, Rules, Sequence
from inference_service.grammar.parser import parse_grammar
from inference_service.grammar.sentence import shortest_sentence


def constrained(grammar: str, wish: str | None) -> str:
    """The wish if the grammar generates it, else a shortest text that it generates.

    Raises:
        EngineGrammarError: it is no grammar that an engine could follow.

    """
    rules = check_grammar(grammar)
    return wish if wish is not None and _generates(rules, wish) else shortest_sentence(grammar)


def check_grammar(grammar: str) -> Rules:
    """The rules of a grammar.

    Raises:
        EngineGrammarError: it is none that an engine could follow.

    """
    try:
        return _checked_rules(grammar)
    except ConstraintError as error:
        raise EngineGrammarError(f"the simulated engine cannot follow this grammar: {error}") from None


@lru_cache(maxsize=64)
def _checked_rules(grammar: str) -> Rules:
    parsed = parse_grammar(grammar)
    check_rules(parsed.rules, parsed.places)
    return parsed.rules


def _generates(rules: Rules, text: str) -> bool:
    """A text that takes too many rules inside one another counts as none."""
    try:
        return len(text) in _Matcher(rules, text).ends(Ref("root"), 0)
    except RecursionError:
        return False


class _Matcher:
    """Follows all ways at once; a rule is followed once from each place."""

    def __init__(self, rules: Rules, text: str) -> None:
        self._rules = rules
        self._text = text
        self._known: dict[tuple[str, int], frozenset[int]] = {}

    def ends(self, node: Node, start: int) -> frozenset[int]:
        """Every place where the node can end that starts here."""
        if isinstance(node, Literal):
            found = self._text.startswith(node.text, start)
            return frozenset({start + len(node.text)} if found else ())
        if isinstance(node, Chars):
            return frozenset({start + 1} if self._is_in(node, start) else ())
        if isinstance(node, Ref):
            return self._ends_of_rule(node.name, start)
        if isinstance(node, Choice):
            return self._union(node.options, {start})
        return self._ends_of_many(node, start)

    def _is_in(self, node: Chars, start: int) -> bool:
        return start < len(self._text) and any(
            low <= ord(self._text[start]) <= high for low, high in node.ranges
        )

    def _ends_of_rule(self, name: str, start: int) -> frozenset[int]:
        if (name, start) not in self._known:
            self._known[name, start] = self.ends(self._rules[name], start)
        return self._known[name, start]

    def _union(self, nodes: Iterable[Node], starts: Iterable[int]) -> frozenset[int]:
        return frozenset().union(*(self.ends(node, start) for node in nodes for start in starts))

    def _ends_of_many(self, node: Sequence | Repeat, start: int) -> frozenset[int]:
        reached = frozenset({start})
        if isinstance(node, Sequence):
            for item in node.items:
                reached = self._union([item], reached)
            return reached
        for _ in range(node.least):
            reached = self._union([node.item], reached)
        found, more = reached, reached
        for _ in range(len(self._text) if node.most is None else node.most - node.least):
            more = self._union([node.item], more) - found
            if not more:
                break
            found |= more
        return found
