"""What a grammar must be, beyond its syntax, before an engine may see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.growth import refuse_growth
from inference_service.grammar.limits import MOST_ELEMENTS, MOST_LEFT_PATHS, MOST_RULES
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


def check_rules(rules: Rules, places: Mapping[str, str] | None = None) -> None:
    """See that the rules describe at least one text, and that engines can follow them.

    llama.cpp overlooks left recursion behind a rule that is empty only indirectly, and then never ends;
    it also walks every way to a rule's first characters, of which there can be exponentially many.

    Args:
        rules: every reference in them has its rule.
        places: where each rule comes from, for errors; by name.

    Raises:
        ConstraintError: they do not, or they are too large.

    """
    _Check(rules, places or {}).run()


class _Check:
    def __init__(self, rules: Rules, places: Mapping[str, str]) -> None:
        self._rules = rules
        self._places = places
        self._nullable: set[str] = set()

    def run(self) -> None:
        if len(self._rules) > MOST_RULES:
            raise ConstraintError(f"it needs {len(self._rules)} rules; at most {MOST_RULES} are accepted")
        productive = self._closure(_is_productive)
        endless = [name for name in self._rules if name not in productive]
        if endless:
            blamed = next((name for name in endless if name in self._places), endless[0])
            raise self._error("it can never end: nothing finite satisfies it", blamed)
        self._nullable = self._closure(_is_nullable)
        self._refuse_empty_repetitions()
        self._count_left_paths(self._in_left_order())
        refuse_growth(self._rules, self._places)

    def _error(self, message: str, rule: str) -> ConstraintError:
        return ConstraintError(message, self._places.get(rule, f"rule {rule}"))

    def _closure(self, holds: Callable[[Node, set[str]], bool]) -> set[str]:
        """Names of the rules for which something holds that follows from its holding for others."""
        users: dict[str, set[str]] = {name: set() for name in self._rules}
        for name, node in self._rules.items():
            for used in _references(node):
                users[used].add(name)
        known: set[str] = set()
        waiting = list(self._rules)
        while waiting:
            name = waiting.pop()
            if name not in known and holds(self._rules[name], known):
                known.add(name)
                waiting.extend(users[name])
        return known

    def _refuse_empty_repetitions(self) -> None:
        for name, rule in self._rules.items():
            for node in _walk(rule):
                if isinstance(node, Repeat) and node.most != 1 and _is_nullable(node.item, self._nullable):
                    raise self._error("what is repeated must not be able to be empty", name)

    def _in_left_order(self) -> list[str]:
        """Rules, each after those that may come first in it; refuses cycles, which are left recursion."""
        ordered: list[str] = []
        state: dict[str, bool] = {}
        """False while a rule's beginnings are being visited, then True."""
        for start in self._rules:
            path = [(start, self._firsts_of(start))] if start not in state else []
            state.setdefault(start, False)
            while path:
                name, firsts = path[-1]
                first = next(firsts, None)
                if first is None:
                    path.pop()
                    state[name] = True
                    ordered.append(name)
                elif first not in state:
                    state[first] = False
                    path.append((first, self._firsts_of(first)))
                elif not state[first]:
                    raise self._error("it begins with itself (left recursion)", first)
        return ordered

    def _firsts_of(self, name: str) -> Iterator[str]:
        return iter(dict.fromkeys(self._firsts(self._rules[name])))

    def _firsts(self, node: Node) -> Iterator[str]:
        if isinstance(node, Ref):
            yield node.name
        for child in children(node):
            yield from self._firsts(child)
            if isinstance(node, Sequence) and not _is_nullable(child, self._nullable):
                return

    def _count_left_paths(self, ordered: list[str]) -> None:
        paths: dict[str, int] = {}
        size = 0
        for name in ordered:
            node = self._rules[name]
            paths[name] = 1 + sum(paths[first] for first in self._firsts(node))
            size += _size(node)
            if size > MOST_ELEMENTS:
                raise ConstraintError(f"it is too large: more than {MOST_ELEMENTS} elements")
            if paths[name] > MOST_LEFT_PATHS:
                raise self._error("too many ways to begin", name)


def _references(node: Node) -> Iterator[str]:
    return (part.name for part in _walk(node) if isinstance(part, Ref))


def _walk(node: Node) -> Iterator[Node]:
    waiting = [node]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(children(part))


def _is_nullable(node: Node, nullable: set[str]) -> bool:
    if isinstance(node, Literal):
        return not node.text
    if isinstance(node, Ref):
        return node.name in nullable
    if isinstance(node, Repeat):
        return node.least == 0 or _is_nullable(node.item, nullable)
    if isinstance(node, Choice):
        return any(_is_nullable(option, nullable) for option in node.options)
    return isinstance(node, Sequence) and all(_is_nullable(item, nullable) for item in node.items)


def _is_productive(node: Node, productive: set[str]) -> bool:
    if isinstance(node, Ref):
        return node.name in productive
    if isinstance(node, Chars):
        return bool(node.ranges)
    if isinstance(node, Repeat):
        return node.least == 0 or _is_productive(node.item, productive)
    if isinstance(node, Choice):
        return any(_is_productive(option, productive) for option in node.options)
    return not isinstance(node, Sequence) or all(_is_productive(item, productive) for item in node.items)


def _size(node: Node) -> int:
    if isinstance(node, Literal):
        return len(node.text) + 1
    if isinstance(node, Chars):
        return len(node.ranges)
    if isinstance(node, Repeat):
        return _size(node.item) * max(node.least + 1, node.most or 1)
    return 1 + sum(_size(child) for child in children(node))
