"""Converts regular languages to finite automata, with `automata-lib`.

The automata show whether an intersection or a complement holds any text. They also turn both into rules for
engines whose notation has neither. Characters that no part of a language tells apart share one symbol.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any

from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.matching import has_text
from inference_service.constraints.nodes import (
    EMPTY,
    MAX_CODE_POINT,
    NOTHING,
    Chars,
    Choice,
    Complement,
    Intersection,
    Literal,
    Node,
    Ref,
    Repeat,
    Sequence,
    Terminal,
    char_set,
    either,
    seq,
    walk,
)

if TYPE_CHECKING:
    from automata.fa.dfa import DFA
    from automata.fa.nfa import NFA

MAX_STATES = 4_000
"""States of one automaton; a counted repetition needs some for each of its counts."""
_MAX_PRODUCT = 40_000
"""Pairs of states of two automata that are put together."""
_MAX_TRIED = 400
"""Expressions that are looked at in search of a text, before an automaton is made."""


def lengths(node: Node) -> tuple[int, int | None]:
    """Lengths of the shortest and the longest text, in characters; None if there is no longest.

    For intersections and complements these are only bounds: a lower one of the shortest, an upper one of the
    longest.
    """
    match node:
        case Literal(text):
            return len(text), len(text)
        case Sequence(items):
            parts = [lengths(item) for item in items]
            longest = [most for _, most in parts if most is not None]
            return sum(least for least, _ in parts), sum(longest) if len(longest) == len(parts) else None
        case Choice(options):
            parts = [lengths(option) for option in options]
            longest = [most for _, most in parts if most is not None]
            return (
                min((least for least, _ in parts), default=0),
                max(longest, default=0) if len(longest) == len(parts) else None,
            )
        case Repeat(item, least, most):
            inner, outer = lengths(item)
            return inner * least, None if most is None or outer is None else most * outer
        case Terminal(item):
            return lengths(item)
        case Intersection(items):
            parts = [lengths(item) for item in items]
            return max(least for least, _ in parts), min(
                (most for _, most in parts if most is not None), default=None
            )
        case Complement():
            return 0, None
    return 1, 1


def is_empty(node: Node) -> bool:
    """Whether a regular language holds no text at all.

    Raises:
        ConstraintError: its automaton is too large to tell.

    """
    match node:
        case Intersection(items):
            return not _surely_holds_text(items) and _is_empty(node)
        case Sequence(items):
            return any(map(is_empty, items))
        case Choice(options):
            return all(map(is_empty, options))
        case Repeat(item, least):
            return least > 0 and is_empty(item)
        case Terminal(item):
            return is_empty(item)
        case Complement():
            return _is_empty(node)
        case Chars(ranges):
            return not ranges
    return False


def _surely_holds_text(items: tuple[Node, ...]) -> bool:
    """Endlessly many texts of one, less finitely many: what names of members most often are."""
    positive = [item for item in items if not isinstance(item, Complement)]
    negative = [item.item for item in items if isinstance(item, Complement)]
    is_finite = all(lengths(item)[1] is not None for item in negative)
    plain = not any(isinstance(part, Complement | Intersection) for item in positive for part in walk(item))
    return plain and len(positive) == 1 and is_finite and lengths(positive[0])[1] is None


@lru_cache(maxsize=1024)
def _is_empty(node: Node) -> bool:
    return not has_text(node)


def alphabet_of(node: Node) -> list[str]:
    """One character of each group that a language tells apart, at least; letters and digits first."""
    codes: dict[int, None] = dict.fromkeys(map(ord, "a0 "))
    for part in walk(node):
        match part:
            case Chars(ranges):
                for low, high in ranges:
                    codes.update({low: None, high + 1: None})
            case Literal(text):
                for char in text:
                    codes.update({ord(char): None, ord(char) + 1: None})
    return [chr(code) for code in codes if code <= MAX_CODE_POINT and not 0xD800 <= code <= 0xDFFF]


def to_rules(node: Node, name: str) -> Mapping[str, Node]:
    """Describe a regular language by rules that need neither intersections nor complements.

    Args:
        node: without `Ref`.
        name: of the rule that describes it; the others' names begin with it.

    Raises:
        ConstraintError: its automaton is too large.

    """
    automata = _Automata(node)
    full = automata.dfa(node)
    dfa: Any = full.minify()
    names = {dfa.initial_state: name}
    rules: dict[str, Node] = {}
    waiting = [dfa.initial_state]
    while waiting:
        state = waiting.pop()
        targets: dict[object, list[int]] = {}
        for symbol, target in dfa.transitions[state].items():
            targets.setdefault(target, []).append(symbol)
        options: list[Node] = [EMPTY] if state in dfa.final_states else []
        for target, symbols in targets.items():
            if not _leads_on(dfa, target):
                continue
            if target not in names:
                names[target] = f"{name}-{len(names)}"
                waiting.append(target)
            options.append(seq(automata.chars(symbols), Ref(names[target])))
        rules[names[state]] = either(*options) if options else NOTHING
    return rules


def _leads_on(dfa: Any, state: object) -> bool:
    """In a minimal automaton, only one state leads to no final state: that which has itself alone."""
    return state in dfa.final_states or any(target != state for target in dfa.transitions[state].values())


def _intersection(one: DFA, two: DFA) -> DFA:
    if len(one.states) * len(two.states) > _MAX_PRODUCT:
        raise ConstraintError("its automaton is too large")
    return one.intersection(two, minify=False)


class _Automata:
    """Automata over the groups of characters that a language tells apart."""

    def __init__(self, node: Node) -> None:
        cuts = {0, 0xD800, 0xE000}
        for part in walk(node):
            match part:
                case Chars(ranges):
                    cuts.update(edge for low, high in ranges for edge in (low, high + 1))
                case Literal(text):
                    cuts.update(edge for char in text for edge in (ord(char), ord(char) + 1))
        self._cuts = sorted(cut for cut in cuts if cut <= MAX_CODE_POINT)
        surrogates = self._cuts.index(0xD800)
        # The library takes any hashable symbols, although its types speak of texts.
        self._symbols: Any = set(range(len(self._cuts))) - {surrogates}

    def chars(self, symbols: list[int]) -> Chars:
        """The characters of some symbols."""
        ends = [*self._cuts[1:], MAX_CODE_POINT + 1]
        return char_set((self._cuts[symbol], ends[symbol] - 1) for symbol in symbols)

    def dfa(self, node: Node) -> DFA:
        from automata.fa.dfa import DFA

        match node:
            case Intersection(items):
                return reduce(_intersection, map(self.dfa, items))
            case Complement(item):
                return self.dfa(item).complement(minify=False)
            case Terminal(item):
                return self.dfa(item)
        return DFA.from_nfa(self._nfa(node), minify=True)

    def _nfa(self, node: Node) -> NFA:
        from automata.fa.nfa import NFA

        if any(isinstance(part, Intersection | Complement) for part in walk(node)):
            return self._composed(node)
        states = _Thompson(self)
        last = states.add(node, 0)
        return NFA(
            states=set(range(states.count)),
            input_symbols=self._symbols,
            transitions=states.transitions,
            initial_state=0,
            final_states={last},
        )

    def _composed(self, node: Node) -> NFA:
        from automata.fa.nfa import NFA

        match node:
            case Sequence(items):
                return reduce(lambda one, two: one.concatenate(two), map(self._nfa, items))
            case Choice(options):
                return reduce(lambda one, two: one.union(two), map(self._nfa, options))
            case Repeat(item, least, most):
                once = self._nfa(item)
                parts = [once] * least
                parts += [once.kleene_star()] if most is None else [once.option()] * (most - least)
                if len(parts) * len(once.states) > MAX_STATES:
                    raise ConstraintError("its automaton is too large")
                return reduce(lambda one, two: one.concatenate(two), parts)
        return NFA.from_dfa(self.dfa(node))

    def symbols_of(self, ranges: tuple[tuple[int, int], ...]) -> Iterator[int]:
        for low, high in ranges:
            first = bisect_right(self._cuts, low) - 1
            while first < len(self._cuts) and self._cuts[first] <= high:
                yield first
                first += 1


class _Thompson:
    """Collects the transitions of a language's automaton."""

    def __init__(self, automata: _Automata) -> None:
        self._automata = automata
        self.transitions: Any = {0: {}}
        self.count = 1

    def _new(self) -> int:
        if self.count >= MAX_STATES:
            raise ConstraintError("its automaton is too large")
        self.transitions[self.count] = {}
        self.count += 1
        return self.count - 1

    def _link(self, source: int, symbol: int | str, target: int) -> None:
        self.transitions[source].setdefault(symbol, set()).add(target)

    def add(self, node: Node, start: int) -> int:
        """Describe a node from a state on; the state where it ends."""
        match node:
            case Literal(text):
                for char in text:
                    start = self._step(((ord(char), ord(char)),), start)
                return start
            case Chars(ranges):
                return self._step(ranges, start)
            case Sequence(items):
                for item in items:
                    start = self.add(item, start)
                return start
            case Choice(options):
                end = self._new()
                for option in options:
                    begin = self._new()
                    self._link(start, "", begin)
                    self._link(self.add(option, begin), "", end)
                return end
            case Repeat(item, least, most):
                return self._repeated(item, least, most, start)
            case Terminal(item):
                return self.add(item, start)
        raise TypeError(f"{node} is not regular")

    def _step(self, ranges: tuple[tuple[int, int], ...], start: int) -> int:
        end = self._new()
        for symbol in self._automata.symbols_of(ranges):
            self._link(start, symbol, end)
        return end

    def _repeated(self, item: Node, least: int, most: int | None, start: int) -> int:
        for _ in range(least):
            start = self.add(item, start)
        if most is None:
            begin = self._new()
            self._link(start, "", begin)
            end = self.add(item, begin)
            self._link(end, "", begin)
            return begin
        end = self._new()
        self._link(start, "", end)
        for _ in range(most - least):
            begin = self._new()
            self._link(start, "", begin)
            start = self.add(item, begin)
            self._link(start, "", end)
        return end
