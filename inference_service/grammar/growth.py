"""Recursion that an engine would follow along ever more ways at once.

llama.cpp keeps a stack for each way to read a text so far, and shares nothing among them: with
`root ::= "(" root ")" | "(" root "]" | "x"` every opening bracket doubles them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inference_service.grammar.errors import ConstraintError
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

MOST_STACKS = 700
_MOST_CHARS = 800
_MOST_STARTS = 24
_MOST_STEPS = 60_000
_MOST_CANDIDATES = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A node that comes next, and what comes after it. The same place is the same object."""

    node: Node
    done: int
    """Characters, items or repetitions that are behind."""
    then: _Place | None
    depth: int


def refuse_growth(rules: Rules, places: Mapping[str, str]) -> None:
    """See that no rule that contains itself can be read in ever more ways.

    Follows, from each of these rules, the character that leaves the most ways, or else the deepest; what
    it finds is there, and it does not find everything.

    Raises:
        ConstraintError: one can.

    """
    walk = _Walk(rules)
    for name in _recursive(rules)[:_MOST_STARTS]:
        if walk.grows(name):
            raise ConstraintError(
                "it contains itself, and for too long it cannot be told which alternative is being followed",
                places.get(name, f"rule {name}"),
            )


def _recursive(rules: Rules) -> list[str]:
    """Names of the rules that lead back to themselves."""
    uses = {name: set(_references(node)) for name, node in rules.items()}
    found = []
    for name in rules:
        seen: set[str] = set()
        waiting = list(uses[name])
        while waiting and name not in seen:
            used = waiting.pop()
            if used not in seen:
                seen.add(used)
                waiting.extend(uses[used])
        if name in seen:
            found.append(name)
    return found


def _references(node: Node) -> Iterator[str]:
    if isinstance(node, Ref):
        yield node.name
    for child in children(node):
        yield from _references(child)


class _Walk:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._places: dict[tuple[int, int, int], _Place] = {}
        self._steps = 0

    def grows(self, rule: str) -> bool:
        stacks = self._closure([self._place(self._rules[rule], 0, None)])
        for _ in range(_MOST_CHARS):
            if len(stacks) > MOST_STACKS:
                return True
            self._steps += len(stacks)
            if not stacks or self._steps > _MOST_STEPS:
                return False
            following = (self._following(stacks, char) for char in _candidates(stacks))
            stacks = max(
                following, key=lambda found: (len(found), max(p.depth for p in found) if found else -1)
            )
        return False

    def _following(self, stacks: list[_Place], char: str) -> list[_Place]:
        return self._closure([self._after(place) for place in stacks if _takes(place, char)])

    def _after(self, place: _Place) -> _Place | None:
        if isinstance(place.node, Literal):
            return self._place(place.node, place.done + 1, place.then)
        return place.then

    def _place(self, node: Node, done: int, then: _Place | None) -> _Place:
        key = (id(node), done, id(then))
        if key not in self._places:
            self._places[key] = _Place(node, done, then, then.depth + 1 if then else 0)
        return self._places[key]

    def _closure(self, starts: list[_Place | None]) -> list[_Place]:
        """Every place with a character that these lead to without one."""
        found: list[_Place] = []
        seen: set[_Place | None] = {None}
        waiting = starts
        while waiting and len(found) <= MOST_STACKS:
            place = waiting.pop()
            if place is None or place in seen:
                continue
            seen.add(place)
            if isinstance(place.node, Chars) or _left(place):
                found.append(place)
            else:
                waiting.extend(self._inner(place.node, place.done, place.then))
        return found

    def _inner(self, node: Node, done: int, then: _Place | None) -> Iterator[_Place | None]:
        if isinstance(node, Ref):
            yield self._place(self._rules[node.name], 0, then)
        elif isinstance(node, Choice):
            yield from (self._place(option, 0, then) for option in node.options)
        elif isinstance(node, Sequence):
            is_last = done + 1 == len(node.items)
            yield self._place(node.items[done], 0, then if is_last else self._place(node, done + 1, then))
        elif isinstance(node, Repeat):
            yield from self._repeated(node, done, then)
        else:
            yield then

    def _repeated(self, node: Repeat, done: int, then: _Place | None) -> Iterator[_Place | None]:
        if done >= node.least:
            yield then
        again = min(done + 1, node.least) if node.most is None else done + 1
        if again == node.most:
            yield self._place(node.item, 0, then)
        elif node.most is None or done < node.most:
            yield self._place(node.item, 0, self._place(node, again, then))


def _left(place: _Place) -> str:
    return place.node.text[place.done :] if isinstance(place.node, Literal) else ""


def _takes(place: _Place, char: str) -> bool:
    if isinstance(place.node, Chars):
        return any(low <= ord(char) <= high for low, high in place.node.ranges)
    return _left(place).startswith(char)


def _candidates(places: list[_Place]) -> list[str]:
    """Characters that places need, those first that most of them do."""
    firsts = Counter(_left(place)[:1] or chr(_first(place.node)) for place in places)
    return [char for char, _ in firsts.most_common(_MOST_CANDIDATES)]


def _first(node: Node) -> int:
    return node.ranges[0][0] if isinstance(node, Chars) else 0
