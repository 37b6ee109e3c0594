"""Decides whether regular languages hold any text, and turns them into rules of finite automata.

The rules are for engines whose notation has neither intersections nor complements. Characters that no part
of a language tells apart share one symbol. `automata-lib` minimizes the automata.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from inference_service.constraints.errors import check_time, time_limit
from inference_service.constraints.matching import has_text, states_of
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

MAX_STATES = 4_000
"""States of one automaton; a counted repetition needs some for each of its counts."""


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
    with time_limit():
        cuts, full = _automaton(node)
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
            ranges = char_set((cuts[symbol], cuts[symbol + 1] - 1) for symbol in symbols)
            options.append(seq(ranges, Ref(names[target])))
        rules[names[state]] = either(*options) if options else NOTHING
    return rules


def _leads_on(dfa: Any, state: object) -> bool:
    """In a minimal automaton, only one state leads to no final state: that which has itself alone."""
    return state in dfa.final_states or any(target != state for target in dfa.transitions[state].values())


def _automaton(node: Node) -> tuple[list[int], DFA]:
    """The automaton of a language, and the code points where each of its symbols begins."""
    from automata.fa.dfa import DFA

    states, moves = states_of(node, MAX_STATES)
    cuts = sorted({0, 0xD800, 0xE000, MAX_CODE_POINT + 1}.union(*(s for move in moves for s in move)))
    places = {cut: index for index, cut in enumerate(cuts)}
    transitions = []
    for move in moves:
        found: dict[int, int] = {}
        for (first, behind), target in move.items():
            found.update(dict.fromkeys(range(places[first], places[behind]), target))
        transitions.append(found)
        check_time()
    surrogates = places[0xD800]
    # The library takes any hashable symbols, although its types speak of texts.
    symbols: Any = set(range(len(cuts) - 1)) - {surrogates}
    dfa = DFA(
        states=set(range(len(states))),
        input_symbols=symbols,
        transitions=dict(enumerate(transitions)),  # type: ignore[arg-type]
        initial_state=0,
        final_states={index for index, state in enumerate(states) if state.nullable},
        allow_partial=True,
    )
    return cuts, dfa
