"""Checks whether a grammar describes a text.

Regular parts are followed by derivatives (Brzozowski): what is left of an expression behind a character is
an expression again, and equal ones are one object, so they become the states of an automaton that is built
as far as texts go through it. Rules are followed by recursive descent, once from each place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from heapq import heappop, heappush
from itertools import pairwise
from typing import TypeAlias

from inference_service.constraints.errors import ConstraintError, check_time
from inference_service.constraints.nodes import (
    ANY_CHAR,
    MAX_CODE_POINT,
    Chars,
    Choice,
    Complement,
    Intersection,
    Literal,
    Node,
    Range,
    Ref,
    Repeat,
    Rules,
    Sequence,
    Terminal,
)

MAX_EXPRESSIONS = 200_000
"""Expressions that one grammar's texts may lead to. Beyond it the grammar is too ambiguous to be followed."""
MAX_SEARCHED = 5_000
"""States that the search for a text of a language may come upon."""
_CHECKED_EVERY = 256
"""Expressions that are made from one look at the time to the next."""
_ENDLESS = 1 << 60

_Parts: TypeAlias = "tuple[object, ...]"
_KINDS = ("all", "any", "concat", "not", "repeat", "set", "text")


class Expression:
    """A regular language; expressions of the same form are one object."""

    __slots__ = ("cuts", "kind", "least", "next", "nullable", "parts")

    def __init__(self, kind: str, parts: tuple[object, ...], *, nullable: bool, least: int) -> None:
        self.kind = kind
        self.parts = parts
        self.nullable = nullable
        self.least = least
        """No text has fewer characters."""
        self.next: dict[str, Expression] = {}
        """The remaining expression after each character that was read here."""
        self.cuts: frozenset[int] | None = None
        """See `Expressions.cuts`."""


class Expressions:
    """Makes expressions, and derives them."""

    def __init__(self) -> None:
        self._known: dict[str, dict[_Parts, Expression]] = {kind: {} for kind in _KINDS}
        self._count = 0
        self._nodes: dict[int, tuple[Node, Expression]] = {}
        self.nothing = self._make("any", (), nullable=False, least=_ENDLESS)
        self.empty = self._make("text", ("",), nullable=True, least=0)
        self.all = self._make("not", (self.nothing,), nullable=True, least=0)

    def __len__(self) -> int:
        return self._count

    def _make(self, kind: str, parts: tuple[object, ...], *, nullable: bool, least: int) -> Expression:
        found = self._known[kind].get(parts)
        if found is None:
            self._count += 1
            if self._count > MAX_EXPRESSIONS:
                raise ConstraintError("there are too many ways to read the same text by it")
            if self._count % _CHECKED_EVERY == 0:
                check_time()
            found = self._known[kind][parts] = Expression(kind, parts, nullable=nullable, least=least)
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
                return self._make("set", ranges, nullable=False, least=1) if ranges else self.nothing
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
        return self._make("text", (text,), nullable=not text, least=len(text))

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
        nullable = one.nullable and two.nullable
        return self._make("concat", (one, two), nullable=nullable, least=one.least + two.least)

    def any_of(self, options: Iterable[Expression]) -> Expression:
        flat: set[Expression] = set()
        for option in options:
            flat.update(option.parts if option.kind == "any" else (option,))  # type: ignore[arg-type]
        if self.all in flat:
            return self.all
        if len(flat) == 1:
            return flat.pop()
        parts = tuple(sorted(flat, key=id))
        least = min((part.least for part in parts), default=_ENDLESS)
        return self._make("any", parts, nullable=any(part.nullable for part in parts), least=least)

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
        least = max(part.least for part in parts)
        return self._make("all", parts, nullable=all(part.nullable for part in parts), least=least)

    def negate(self, item: Expression) -> Expression:
        if item.kind == "not":
            return item.parts[0]  # type: ignore[return-value]
        return self._make("not", (item,), nullable=not item.nullable, least=int(item.nullable))

    def repeat(self, item: Expression, least: int, most: int | None) -> Expression:
        if most == 0 or item is self.empty:
            return self.empty
        if item is self.nothing:
            return self.nothing if least else self.empty
        if (least, most) == (1, 1):
            return item
        if (least, most) == (0, None) and item.kind == "set" and item.parts == ANY_CHAR.ranges:
            return self.all
        least = 0 if item.nullable else least
        return self._make("repeat", (item, least, most), nullable=least == 0, least=item.least * least)

    def cuts(self, state: Expression) -> frozenset[int]:
        """Code points where another group of characters begins: those of a group lead to the same state."""
        if state.cuts is None:
            state.cuts = frozenset(self._cuts(state))
        return state.cuts

    def _cuts(self, state: Expression) -> Iterable[int]:
        parts = state.parts
        match state.kind:
            case "text":
                text: str = parts[0]  # type: ignore[assignment]
                return (ord(text[0]), ord(text[0]) + 1) if text else ()
            case "set":
                ranges: tuple[Range, ...] = parts  # type: ignore[assignment]
                return (edge for low, high in ranges for edge in (low, high + 1))
            case "concat":
                one, two = parts
                first = self.cuts(one)  # type: ignore[arg-type]
                return first | self.cuts(two) if one.nullable else first  # type: ignore[attr-defined, arg-type]
            case "any" | "all":
                return frozenset().union(*map(self.cuts, parts))  # type: ignore[arg-type]
        return self.cuts(parts[0])  # type: ignore[arg-type]

    def groups(self, state: Expression) -> Iterator[tuple[int, int]]:
        """The groups of characters that a state tells apart, as ranges of code points."""
        starts = sorted({0, 0xD800, 0xE000} | self.cuts(state))
        for start, following in pairwise((*starts, MAX_CODE_POINT + 1)):
            if start < following and not 0xD800 <= start < 0xE000:
                yield start, following - 1

    def after(self, state: Expression, char: str) -> Expression:
        """The remaining expression after a character."""
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


def belongs(language: Node, text: str) -> bool:
    """Whether a text belongs to a regular language.

    Raises:
        ConstraintError: there are too many ways to read it.

    """
    check_time()
    expressions = _expressions(language)
    if len(expressions) > MAX_SEARCHED:
        expressions = Expressions()
    state = expressions.of(language)
    for char in text:
        state = expressions.after(state, char)
    return state.nullable


@lru_cache(maxsize=256)
def _expressions(_language: Node) -> Expressions:
    """The expressions that texts of a language have led to so far. Threads may share them."""
    return Expressions()


def has_text(node: Node) -> bool:
    """Whether a regular language holds any text. The search goes where the least is left to read.

    Raises:
        ConstraintError: it comes upon too many states.

    """
    expressions = Expressions()
    start = expressions.of(node)
    seen = {start}
    waiting = [(start.least, 0, start)]
    while waiting:
        _, _, state = heappop(waiting)
        if state.nullable:
            return True
        for first, _ in expressions.groups(state):
            following = expressions.after(state, chr(first))
            if following is not expressions.nothing and following not in seen:
                seen.add(following)
                heappush(waiting, (following.least, -len(seen), following))
        if len(seen) > MAX_SEARCHED:
            raise ConstraintError("its automaton is too large")
    return False


def states_of(node: Node, limit: int) -> tuple[list[Expression], list[dict[tuple[int, int], int]]]:
    """The states that texts of a regular language lead to; the first is where a text begins.

    Returns:
        The states, and for each the moves from it: the first code point of a group of characters, the one
        behind its last, and the index of the state that they lead to.

    Raises:
        ConstraintError: there are more states than the limit.

    """
    expressions = Expressions()
    states = [expressions.of(node)]
    known = {states[0]: 0}
    moves: list[dict[tuple[int, int], int]] = []
    while len(moves) < len(states):
        state = states[len(moves)]
        found: dict[tuple[int, int], int] = {}
        for first, last in expressions.groups(state):
            target = expressions.after(state, chr(first))
            if target is expressions.nothing:
                continue
            if target not in known:
                known[target] = len(states)
                states.append(target)
            found[first, last + 1] = known[target]
        moves.append(found)
        if len(states) > limit:
            raise ConstraintError("its automaton is too large")
    return states, moves


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
