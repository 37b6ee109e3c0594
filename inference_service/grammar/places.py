"""Walking through a grammar a character at a time, along every way there is to read a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from inference_service.grammar.nodes import Chars, Choice, Literal, Node, Ref, Repeat, Rules, Sequence


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A node that comes next, and what comes after it. The same place is the same object."""

    node: Node
    done: int
    """Characters of a text, items of a sequence, or repetitions that are behind."""
    then: Place | None
    depth: int
    """How many places come after it."""

    @property
    def left(self) -> str:
        """What is left of a literal; empty for anything else."""
        return self.node.text[self.done :] if isinstance(self.node, Literal) else ""

    @property
    def first(self) -> int:
        """A code point that it takes."""
        if isinstance(self.node, Chars):
            return self.node.ranges[0][0]
        return ord(self.left[0])

    @property
    def has_character(self) -> bool:
        """Whether a character of its own comes next."""
        return isinstance(self.node, Chars) or bool(self.left)

    def takes(self, char: int) -> bool:
        """Whether this code point may come next."""
        if isinstance(self.node, Chars):
            return any(low <= char <= high for low, high in self.node.ranges)
        return bool(self.left) and ord(self.left[0]) == char


class Walk:
    """Leads from place to place."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._places: dict[tuple[int, int, int], Place] = {}
        self.steps = 0
        """Places that were looked at."""

    def place(self, node: Node, done: int = 0, then: Place | None = None) -> Place:
        """The place of a node, with so much of it behind, before `then`."""
        key = (id(node), done, id(then))
        if key not in self._places:
            self._places[key] = Place(node, done, then, then.depth + 1 if then else 0)
        return self._places[key]

    def after(self, place: Place) -> Place | None:
        """Where it goes on once a place's character is read; None is the end of what is known."""
        if isinstance(place.node, Literal):
            return self.place(place.node, place.done + 1, place.then)
        return place.then

    def characters(
        self, starts: Iterable[Place | None], seen: set[Place | None] | None = None, most: int | None = None
    ) -> list[Place]:
        """Every place with a character of its own that these lead to without one.

        Args:
            starts: from here.
            seen: gets all places on the way.
            most: more than so many are not looked for.

        """
        found: list[Place] = []
        passed: set[Place | None] = {None}
        waiting = list(starts)
        while waiting and (most is None or len(found) <= most):
            place = waiting.pop()
            self.steps += 1
            if place is None or place in passed:
                continue
            passed.add(place)
            if place.has_character:
                found.append(place)
            else:
                waiting.extend(self._inner(place.node, place.done, place.then))
        if seen is not None:
            seen |= passed
        return found

    def _inner(self, node: Node, done: int, then: Place | None) -> Iterator[Place | None]:
        if isinstance(node, Ref):
            yield self.place(self._rules[node.name], 0, then)
        elif isinstance(node, Choice):
            yield from (self.place(option, 0, then) for option in node.options)
        elif isinstance(node, Sequence) and done < len(node.items):
            is_last = done + 1 == len(node.items)
            yield self.place(node.items[done], 0, then if is_last else self.place(node, done + 1, then))
        elif isinstance(node, Repeat):
            yield from self._repeated(node, done, then)
        else:
            yield then

    def _repeated(self, node: Repeat, done: int, then: Place | None) -> Iterator[Place | None]:
        if done >= node.least:
            yield then
        # Beyond the lower limit, repetitions without an upper one are all the same.
        again = min(done + 1, node.least) if node.most is None else done + 1
        if again == node.most:
            yield self.place(node.item, 0, then)
        elif node.most is None or done < node.most:
            yield self.place(node.item, 0, self.place(node, again, then))
