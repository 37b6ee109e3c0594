"""How many ways there are to read the same text by a grammar.

llama.cpp follows every one of them for every token of the vocabulary, and nobody else gets a token in the
meantime: `[a-z]*` thirty times in a row costs seconds a token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

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

MOST_WAYS = 100_000
"""Of reading the characters of one token. Up to here a token costs less than a tenth of a second more."""

MOST_WORK = 1_500_000
"""Places that are looked at: a few seconds. A grammar that takes more is refused unseen."""

TOKEN_CHARS = 8
_CANDIDATES = 4
_MOST_FOLLOWED = 48
"""Places that are followed at a time, those with the most ways: where ways multiply, these do too."""


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """A place in a grammar, and where it goes on after that. The same place is the same object."""

    node: Node
    done: int
    """Characters of a text, items of a sequence, or repetitions that are behind."""
    then: _Frame | None


def is_too_ambiguous(rules: Rules) -> bool:
    """Whether some text has too many ways to be read, from any place of a rule on to that rule's end.

    Follows the character that most ways agree on, for as long as they multiply; so it finds repetitions
    beside or inside one another, and not every ambiguity there can be. True also where finding out takes
    too long.
    """
    search = _Search(rules)
    starts = (start for rule in rules.values() for start in _starts(rule))
    return any(search.multiplies(node, done) or search.work > MOST_WORK for node, done in starts)


def _starts(rule: Node) -> Iterator[tuple[Node, int]]:
    waiting = [rule]
    while waiting:
        node = waiting.pop()
        waiting.extend(children(node))
        if isinstance(node, Sequence):
            yield from ((node, done) for done, item in enumerate(node.items) if not isinstance(item, Literal))
        elif isinstance(node, Choice | Repeat):
            yield node, 0


class _Search:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.work = 0
        """Places looked at so far."""
        self._frames: dict[tuple[int, int, int], _Frame] = {}
        self._tried: set[_Frame | None] = set()
        """Places whose ways were among those of another one."""

    def multiplies(self, node: Node, done: int) -> bool:
        start = self._frame(node, done, None)
        if start in self._tried:
            return False
        ways = Counter(dict.fromkeys(self._closure(start, self._tried), 1))
        before = 1
        for _ in range(TOKEN_CHARS):
            ways = self._after(self._favourite(ways), ways)
            total = ways.total()
            if total > MOST_WAYS:
                return True
            if total <= before:
                return False
            before = total
        return False

    def _after(self, char: int, ways: Counter[_Frame]) -> Counter[_Frame]:
        found: Counter[_Frame] = Counter()
        taking = [frame for frame, _ in ways.most_common() if _takes(frame, char)]
        for frame in taking[:_MOST_FOLLOWED]:
            for place in self._closure(self._shifted(frame)):
                found[place] += ways[frame]
        return found

    def _favourite(self, ways: Counter[_Frame]) -> int:
        first: Counter[int] = Counter()
        for frame, count in ways.items():
            first[_first_char(frame)] += count
        candidates = [char for char, _ in first.most_common(_CANDIDATES)]
        agreed = {c: sum(n for frame, n in ways.items() if _takes(frame, c)) for c in candidates}
        return max(agreed, key=lambda char: agreed[char], default=0)

    def _frame(self, node: Node, done: int, then: _Frame | None) -> _Frame:
        key = (id(node), done, id(then))
        if key not in self._frames:
            self._frames[key] = _Frame(node, done, then)
        return self._frames[key]

    def _shifted(self, frame: _Frame) -> _Frame | None:
        if isinstance(frame.node, Literal):
            return self._frame(frame.node, frame.done + 1, frame.then)
        return frame.then

    def _closure(self, start: _Frame | None, passed: set[_Frame | None] | None = None) -> list[_Frame]:
        """Every place with a character of its own that can be reached without one.

        Args:
            start: from here; None is the end of what is known.
            passed: gets all places on the way.

        """
        found: list[_Frame] = []
        seen: set[_Frame | None] = {None}
        waiting = [start]
        while waiting:
            frame = waiting.pop()
            self.work += 1
            if frame is None or frame in seen:
                continue
            seen.add(frame)
            node = frame.node
            if isinstance(node, Chars) or (isinstance(node, Literal) and frame.done < len(node.text)):
                found.append(frame)
            else:
                waiting.extend(self._inner(node, frame.done, frame.then))
        if passed is not None:
            passed |= seen
        return found

    def _inner(self, node: Node, done: int, then: _Frame | None) -> Iterator[_Frame | None]:
        if isinstance(node, Ref):
            yield self._frame(self._rules[node.name], 0, then)
        elif isinstance(node, Choice):
            yield from (self._frame(option, 0, then) for option in node.options)
        elif isinstance(node, Sequence) and done < len(node.items):
            is_last = done + 1 == len(node.items)
            yield self._frame(node.items[done], 0, then if is_last else self._frame(node, done + 1, then))
        elif isinstance(node, Repeat):
            yield from self._repeated(node, done, then)
        else:
            yield then

    def _repeated(self, node: Repeat, done: int, then: _Frame | None) -> Iterator[_Frame | None]:
        if done >= node.least:
            yield then
        if node.most is None or done < node.most:
            # Beyond the lower limit, repetitions without an upper one are all the same.
            after = done + 1 if node.most is not None else min(done + 1, node.least)
            yield self._frame(node.item, 0, self._frame(node, after, then))


def _takes(frame: _Frame, char: int) -> bool:
    if isinstance(frame.node, Literal):
        return ord(frame.node.text[frame.done]) == char
    return isinstance(frame.node, Chars) and any(low <= char <= high for low, high in frame.node.ranges)


def _first_char(frame: _Frame) -> int:
    if isinstance(frame.node, Literal):
        return ord(frame.node.text[frame.done])
    return frame.node.ranges[0][0] if isinstance(frame.node, Chars) else 0
