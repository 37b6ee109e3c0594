"""Recursion that an engine would follow along ever more ways at once.

llama.cpp keeps a stack for each way to read a text so far, and shares nothing among them: with
`root ::= "(" root ")" | "(" root "]" | "x"` every opening bracket doubles them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.nodes import Node, Ref, Rules, children
from inference_service.grammar.places import Place, Walk

MOST_STACKS = 700
_MOST_CHARS = 800
_MOST_STARTS = 24
_MOST_STEPS = 60_000
_MOST_CANDIDATES = 4


def refuse_growth(rules: Rules, places: Mapping[str, str]) -> None:
    """See that no rule that contains itself can be read in ever more ways.

    Follows, from each of these rules, the character that leaves the most ways, or else the deepest; what
    it finds is there, and it does not find everything.

    Raises:
        ConstraintError: one can.

    """
    search = _Search(rules)
    for name in _recursive(rules)[:_MOST_STARTS]:
        if search.grows(name):
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


class _Search:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._walk = Walk(rules)
        self._steps = 0

    def grows(self, rule: str) -> bool:
        stacks = self._characters([self._walk.place(self._rules[rule])])
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

    def _following(self, stacks: list[Place], char: int) -> list[Place]:
        return self._characters([self._walk.after(place) for place in stacks if place.takes(char)])

    def _characters(self, starts: Iterable[Place | None]) -> list[Place]:
        return self._walk.characters(starts, most=MOST_STACKS)


def _candidates(places: list[Place]) -> list[int]:
    """Characters that places need, those first that most of them do."""
    firsts = Counter(place.first for place in places)
    return [char for char, _ in firsts.most_common(_MOST_CANDIDATES)]
