"""A text that a grammar generates."""

from __future__ import annotations

from functools import lru_cache

from inference_service.grammar.nodes import Chars, Choice, Literal, Node, Ref, Repeat, Rules, Sequence
from inference_service.grammar.parser import parse_grammar

_PREFERRED = (ord("a"), ord("0"), ord(" "))


@lru_cache(maxsize=64)
def shortest_sentence(grammar: str) -> str:
    """A shortest text that the grammar generates, always the same one.

    Args:
        grammar: as `compile_constraint` and `GrammarBuilder.build` return it.

    """
    rules = parse_grammar(grammar).rules
    return _Shortest(rules).of("root")


class _Shortest:
    """Lengths first, by relaxation until none improves; then the text along the shortest choices."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lengths: dict[str, int] = {}
        changed = True
        while changed:
            changed = False
            for name, node in rules.items():
                length = self._length(node)
                if length is not None and length < self._lengths.get(name, length + 1):
                    self._lengths[name] = length
                    changed = True

    def of(self, name: str) -> str:
        """Write a rule's shortest text; every step leads to a strictly shorter rest, so this ends."""
        parts: list[str] = []
        waiting: list[Node] = [Ref(name)]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Literal):
                parts.append(node.text)
            elif isinstance(node, Chars):
                parts.append(_pleasant(node))
            else:
                waiting.extend(reversed(self._expanded(node)))
        return "".join(parts)

    def _expanded(self, node: Ref | Sequence | Choice | Repeat) -> list[Node]:
        if isinstance(node, Ref):
            return [self._rules[node.name]]
        if isinstance(node, Sequence):
            return list(node.items)
        if isinstance(node, Repeat):
            return [node.item] * node.least
        known = [(length, option) for option in node.options if (length := self._length(option)) is not None]
        return [min(known, key=lambda pair: pair[0])[1]]

    def _length(self, node: Node) -> int | None:
        """Characters of the shortest text; None if none is known yet."""
        if isinstance(node, Literal):
            return len(node.text)
        if isinstance(node, Chars):
            return 1
        if isinstance(node, Ref):
            return self._lengths.get(node.name)
        if isinstance(node, Repeat):
            length = self._length(node.item) if node.least else 0
            return None if length is None else length * node.least
        lengths = [self._length(part) for part in _parts(node)]
        known = [length for length in lengths if length is not None]
        if isinstance(node, Choice):
            return min(known, default=None)
        return sum(known) if len(known) == len(lengths) else None


def _parts(node: Sequence | Choice) -> tuple[Node, ...]:
    return node.items if isinstance(node, Sequence) else node.options


def _pleasant(node: Chars) -> str:
    for code_point in _PREFERRED:
        if any(low <= code_point <= high for low, high in node.ranges):
            return chr(code_point)
    return chr(node.ranges[0][0])
