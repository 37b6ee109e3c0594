"""Checks whether a grammar describes a text.

Regular parts are followed by derivatives (Brzozowski): what is left of an expression behind a character is
an expression again, and equal ones are one object, so they become the states of an automaton that is built
as far as texts go through it. Rules are followed by recursive descent, once from each place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import TypeAlias

from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.nodes import (
    Chars,
    Choice,
    Complement,
    Intersection,
    Literal,
    Node,
    Ref,
    Repeat,
    Rules,
    Sequence,
    Terminal,
)

MAX_EXPRESSIONS = 200_000
"""Expressions that one grammar's texts may lead to. Beyond it the grammar is too ambiguous to be followed."""

_Key: TypeAlias = "tuple[object, ...]"


class Expression:
    """A regular language; there is one object for each that can be told apart by its form."""

    __slots__ = ("kind", "next", "nullable", "parts")

    def __init__(self, kind: str, parts: tuple[object, ...], *, nullable: bool) -> None:
        self.kind = kind
        self.parts = parts
        self.nullable = nullable
        self.next: dict[str, Expression] = {}
        """What is left behind each character that was read here."""


class Expressions:
    """Makes expressions, and derives them."""

    def __init__(self) -> None:
        self._known: dict[_Key, Expression] = {}
        self._nodes: dict[int, tuple[Node, Expression]] = {}
        self.nothing = self._make("any", (), nullable=False)
        self.empty = self._make("text", ("",), nullable=True)
        self.all = self._make("not", (self.nothing,), nullable=True)

    def _make(self, kind: str, parts: tuple[object, ...], *, nullable: bool) -> Expression:
        key = (kind, *parts)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MAX_EXPRESSIONS:
                raise ConstraintError("there are too many ways to read the same text by it")
            found = self._known[key] = Expression(kind, parts, nullable=nullable)
        return found

    def of(self, node: Node) -> Expression:
        """The expression of a node without `Ref`."""
        known = self._nodes.get(id(node))
        if known is None:
            # The node is kept, so that no other one gets its address.
            known = self._nodes[id(node)] = (node, self._convert(node))
        return known[1]

    def _convert(self, node: Node) -> Expression:
        match node:
            case Literal(text):
                return self.text(text)
            case Chars(ranges):
                return self._make("set", ranges, nullable=False) if ranges else self.nothing
            case Sequence(items):
                found = self.empty
                for item in reversed(items):
                    found = self.concat(self.of(item), found)
                return found
            case Choice(options):
                return self.any_of(map(self.of, options))
            case Repeat(item, least, most):
                return self.repeat(self.of(item), least, most)
            case Terminal(item):
                return self.of(item)
            case Intersection(items):
                return self.all_of(map(self.of, items))
            case Complement(item):
                return self.negate(self.of(item))
        raise TypeError(f"{node} is not regular")

    def text(self, text: str) -> Expression:
        return self._make("text", (text,), nullable=not text)

    def concat(self, one: Expression, two: Expression) -> Expression:
        if one is self.nothing or two is self.nothing:
            return self.nothing
        if one is self.empty:
            return two
        if two is self.empty:
            return one
        if one.kind == "concat":
            head, rest = one.parts
            return self.concat(head, self.concat(rest, two))  # type: ignore[arg-type]
        return self._make("concat", (one, two), nullable=one.nullable and two.nullable)

    def any_of(self, options: Iterable[Expression]) -> Expression:
        flat: set[Expression] = set()
        for option in options:
            flat.update(option.parts if option.kind == "any" else (option,))  # type: ignore[arg-type]
        if self.all in flat:
            return self.all
        if len(flat) == 1:
            return flat.pop()
        parts = tuple(sorted(flat, key=id))
        return self._make("any", parts, nullable=any(part.nullable for part in parts))

    def all_of(self, items: Iterable[Expression]) -> Expression:
        flat: set[Expression] = set()
        for item in items:
            flat.update(item.parts if item.kind == "all" else (item,))  # type: ignore[arg-type]
        flat.discard(self.all)
        if self.nothing in flat:
            return self.nothing
        if len(flat) <= 1:
            return flat.pop() if flat else self.all
        parts = tuple(sorted(flat, key=id))
        return self._make("all", parts, nullable=all(part.nullable for part in parts))

    def negate(self, item: Expression) -> Expression:
        if item.kind == "not":
            return item.parts[0]  # type: ignore[return-value]
        return self._make("not", (item,), nullable=not item.nullable)

    def repeat(self, item: Expression, least: int, most: int | None) -> Expression:
        if most == 0 or item is self.empty:
            return self.empty
        if item is self.nothing:
            return self.nothing if least else self.empty
        if (least, most) == (1, 1):
            return item
        least = 0 if item.nullable else least
        return self._make("repeat", (item, least, most), nullable=least == 0)

    def after(self, state: Expression, char: str) -> Expression:
        """What is left of an expression behind a character."""
        found = state.next.get(char)
        if found is None:
            found = state.next[char] = self._derive(state, char)
        return found

    def _derive(self, state: Expression, char: str) -> Expression:
        parts = state.parts
        match state.kind:
            case "text":
                text: str = parts[0]  # type: ignore[assignment]
                return self.text(text[1:]) if text[:1] == char else self.nothing
            case "set":
                return self.empty if _is_in(parts, ord(char)) else self.nothing  # type: ignore[arg-type]
            case "concat":
                one, two = parts
                left = self.concat(self.after(one, char), two)  # type: ignore[arg-type]
                if not one.nullable:  # type: ignore[attr-defined]
                    return left
                return self.any_of((left, self.after(two, char)))  # type: ignore[arg-type]
            case "any":
                return self.any_of(self.after(part, char) for part in parts)  # type: ignore[arg-type]
            case "all":
                return self.all_of(self.after(part, char) for part in parts)  # type: ignore[arg-type]
            case "not":
                return self.negate(self.after(parts[0], char))  # type: ignore[arg-type]
        item, least, most = parts
        rest = self.repeat(item, max(least - 1, 0), None if most is None else most - 1)  # type: ignore[arg-type, operator]
        return self.concat(self.after(item, char), rest)  # type: ignore[arg-type]


def _is_in(ranges: tuple[tuple[int, int], ...], code: int) -> bool:
    index = bisect_right(ranges, (code, 0x110000)) - 1
    return index >= 0 and code <= ranges[index][1]


class Matcher:
    """Matches texts against rules. Not for several threads at once."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._expressions = Expressions()
        self._is_regular: dict[int, bool] = {}

    def matches(self, text: str) -> bool:
        """Whether the rules describe the text. One that nests too many rules counts as not described.

        Raises:
            ConstraintError: there are too many ways to read it.

        """
        try:
            return len(text) in _Reading(self._rules, self._expressions, text).ends(Ref("root"), 0)
        except RecursionError:
            return False


class _Reading:
    """One text, read from each place once by each rule."""

    def __init__(self, rules: Rules, expressions: Expressions, text: str) -> None:
        self._rules = rules
        self._expressions = expressions
        self._text = text
        self._known: dict[tuple[str, int], frozenset[int]] = {}
        self._terminals: dict[tuple[int, int], frozenset[int]] = {}

    def ends(self, node: Node, start: int) -> frozenset[int]:
        """Every place where the node can end that starts here."""
        match node:
            case Literal(text):
                return frozenset((start + len(text),) if self._text.startswith(text, start) else ())
            case Ref(name):
                key = (name, start)
                found = self._known.get(key)
                if found is None:
                    found = self._known[key] = self.ends(self._rules[name], start)
                return found
            case Choice(options):
                return frozenset().union(*(self.ends(option, start) for option in options))
            case Sequence(items):
                reached = frozenset((start,))
                for item in items:
                    reached = self._from_all(item, reached)
                    if not reached:
                        break
                return reached
            case Repeat(item, least, most):
                return self._repeated(item, least, most, start)
        return self._ends_of_terminal(node, start)

    def _from_all(self, node: Node, starts: frozenset[int]) -> frozenset[int]:
        if len(starts) == 1:
            return self.ends(node, next(iter(starts)))
        return frozenset().union(*(self.ends(node, start) for start in starts))

    def _repeated(self, item: Node, least: int, most: int | None, start: int) -> frozenset[int]:
        reached = frozenset((start,))
        for _ in range(least):
            following = self._from_all(item, reached)
            if following == reached:
                break
            reached = following
        found = new = reached
        count = least
        while new and (most is None or count < most):
            new = self._from_all(item, new) - found
            found |= new
            count += 1
        return found

    def _ends_of_terminal(self, node: Node, start: int) -> frozenset[int]:
        key = (id(node), start)
        found = self._terminals.get(key)
        if found is None:
            found = self._terminals[key] = frozenset(self._accepting(node, start))
        return found

    def _accepting(self, node: Node, start: int) -> Iterable[int]:
        expressions, text = self._expressions, self._text
        state = expressions.of(node)
        nothing = expressions.nothing
        if state.nullable:
            yield start
        for place in range(start, len(text)):
            state = state.next.get(text[place]) or expressions.after(state, text[place])
            if state is nothing:
                return
            if state.nullable:
                yield place + 1
