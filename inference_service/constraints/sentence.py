"""Finds a shortest text that a grammar describes."""

from __future__ import annotations

from collections import deque
from functools import lru_cache

from inference_service.constraints.automata import alphabet_of
from inference_service.constraints.matching import Expression, Expressions
from inference_service.constraints.nodes import (
    Chars,
    Choice,
    Literal,
    Node,
    Ref,
    Repeat,
    Rules,
    Sequence,
    Terminal,
)

_PREFERRED = (ord("a"), ord("0"), ord(" "))


def shortest_text(rules: Rules) -> str:
    """A shortest text of the rule `root`, always the same one."""
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
            match waiting.pop():
                case Literal(text):
                    parts.append(text)
                case Chars() as node:
                    parts.append(_pleasant(node))
                case Ref(used):
                    waiting.append(self._rules[used])
                case Sequence(items):
                    waiting.extend(reversed(items))
                case Repeat(item, least):
                    waiting.extend([item] * least)
                case Choice(options):
                    known = [(n, option) for option in options if (n := self._length(option)) is not None]
                    waiting.append(min(known, key=lambda pair: pair[0])[1])
                case Terminal(item):
                    waiting.append(item)
                case node:
                    parts.append(_shortest_of(node) or "")
        return "".join(parts)

    def _length(self, node: Node) -> int | None:
        """Characters of the shortest text; None if none is known yet."""
        match node:
            case Literal(text):
                return len(text)
            case Chars():
                return 1
            case Ref(name):
                return self._lengths.get(name)
            case Repeat(item, least):
                length = self._length(item) if least else 0
                return None if length is None else length * least
            case Terminal(item):
                return self._length(item)
            case Choice(options):
                return min((n for n in map(self._length, options) if n is not None), default=None)
            case Sequence(items):
                lengths = [self._length(item) for item in items]
                known = [length for length in lengths if length is not None]
                return sum(known) if len(known) == len(lengths) else None
        shortest = _shortest_of(node)
        return None if shortest is None else len(shortest)


@lru_cache(maxsize=256)
def _shortest_of(node: Node) -> str | None:
    """A shortest text of a regular language with intersections or complements; None if there is none."""
    expressions = Expressions()
    alphabet = alphabet_of(node)
    start = expressions.of(node)
    before: dict[Expression, tuple[Expression, str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if state.nullable:
            return _spelled(state, before)
        for char in alphabet:
            following = expressions.after(state, char)
            if following is not expressions.nothing and following not in before:
                before[following] = (state, char)
                waiting.append(following)
    return None


def _spelled(state: Expression, before: dict[Expression, tuple[Expression, str] | None]) -> str:
    parts: list[str] = []
    while (step := before[state]) is not None:
        state, char = step
        parts.append(char)
    return "".join(reversed(parts))


def _pleasant(node: Chars) -> str:
    for code_point in _PREFERRED:
        if any(low <= code_point <= high for low, high in node.ranges):
            return chr(code_point)
    return chr(node.ranges[0][0])
