"""Texts of a grammar: which it has, and some of them."""

from __future__ import annotations

from random import Random

from inference_service.grammar.nodes import (
    Chars,
    Choice,
    Literal,
    Node,
    Ref,
    Repeat,
    Rules,
    Sequence,
    children,
)
from inference_service.grammar.parser import parse_grammar


def accepts(grammar: str, text: str) -> bool:
    """Whether the grammar has this text."""
    return len(text) in _Matcher(parse_grammar(grammar).rules, text).ends(Ref("root"), 0)


class _Matcher:
    """Tries everything, and remembers it. Not for rules that begin with themselves."""

    def __init__(self, rules: Rules, text: str) -> None:
        self._rules = rules
        self._text = text
        self._known: dict[tuple[str, int], frozenset[int]] = {}

    def ends(self, node: Node, start: int) -> frozenset[int]:
        if isinstance(node, Ref):
            key = (node.name, start)
            if key not in self._known:
                self._known[key] = self.ends(self._rules[node.name], start)
            return self._known[key]
        if isinstance(node, Literal):
            end = start + len(node.text)
            return frozenset({end} if self._text.startswith(node.text, start) else ())
        if isinstance(node, Chars):
            code = ord(self._text[start]) if start < len(self._text) else -1
            return frozenset({start + 1} if any(low <= code <= high for low, high in node.ranges) else ())
        if isinstance(node, Choice):
            return frozenset().union(*(self.ends(option, start) for option in node.options))
        items = node.items if isinstance(node, Sequence) else (node.item,) * node.least
        ends = frozenset({start})
        for item in items:
            ends = self._after(item, ends)
        return ends if isinstance(node, Sequence) else self._more(node, ends)

    def _after(self, node: Node, starts: frozenset[int]) -> frozenset[int]:
        return frozenset().union(*(self.ends(node, start) for start in starts))

    def _more(self, node: Repeat, ends: frozenset[int]) -> frozenset[int]:
        found, newest, count = ends, ends, node.least
        while newest and (node.most is None or count < node.most):
            newest = self._after(node.item, newest) - found
            found, count = found | newest, count + 1
        return found


def some_text(grammar: str, random: Random) -> str:
    """One of its texts."""
    rules = parse_grammar(grammar).rules
    return _Writer(rules, random).text(Ref("root"), 0)


class _Writer:
    """Goes down by chance, and by the shortest way once it is deep."""

    def __init__(self, rules: Rules, random: Random) -> None:
        self._rules = rules
        self._random = random
        self._depths: dict[str, int] = {}
        for _ in rules:
            self._depths = {name: self._depth(node) for name, node in rules.items()}

    def text(self, node: Node, depth: int) -> str:
        if isinstance(node, Literal):
            return node.text
        if isinstance(node, Chars):
            return chr(self._random.choice([code for pair in node.ranges for code in pair]))
        if isinstance(node, Ref):
            return self.text(self._rules[node.name], depth + 1)
        if isinstance(node, Choice):
            options = node.options if depth < 30 else [min(node.options, key=self._depth)]
            return self.text(self._random.choice(options), depth)
        items = node.items if isinstance(node, Sequence) else (node.item,) * self._count(node, depth)
        return "".join(self.text(item, depth) for item in items)

    def _count(self, node: Repeat, depth: int) -> int:
        most = node.least + 3 if node.most is None else min(node.most, node.least + 3)
        return self._random.randint(node.least, most) if depth < 30 else node.least

    def _depth(self, node: Node) -> int:
        if isinstance(node, Ref):
            return 1 + self._depths.get(node.name, 1_000)
        depths = [self._depth(child) for child in children(node)]
        if isinstance(node, Choice):
            return min(depths)
        if isinstance(node, Repeat) and node.least == 0:
            return 0
        return max(depths, default=0)
