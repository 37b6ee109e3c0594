"""How many ways there are to read the same text by a grammar.

llama.cpp follows every one of them for every token of the vocabulary, and nobody else gets a token in the
meantime: `[a-z]*` thirty times in a row costs seconds a token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from inference_service.grammar.nodes import Choice, Literal, Node, Repeat, Rules, Sequence, children
from inference_service.grammar.places import Place, Walk

MOST_WAYS = 100_000
"""Of reading the characters of one token. Up to here a token costs less than a tenth of a second more."""

MOST_WORK = 1_500_000
"""Places that are looked at: a few seconds. A grammar that takes more is refused unseen."""

TOKEN_CHARS = 24
_CANDIDATES = 4
_MOST_FOLLOWED = 48
"""Places that are followed at a time, those with the most ways: where ways multiply, these do too."""


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
        self._walk = Walk(rules)
        self._tried: set[Place | None] = set()
        """Places whose ways were among those of another one."""

    @property
    def work(self) -> int:
        """Places looked at so far."""
        return self._walk.steps

    def multiplies(self, node: Node, done: int) -> bool:
        start = self._walk.place(node, done)
        if start in self._tried:
            return False
        ways = Counter(dict.fromkeys(self._walk.characters([start], self._tried), 1))
        before = 1
        for _ in range(TOKEN_CHARS):
            ways = self._after(_favourite(ways), ways)
            total = ways.total()
            if total > MOST_WAYS:
                return True
            if total <= before:
                return False
            before = total
        return False

    def _after(self, char: int, ways: Counter[Place]) -> Counter[Place]:
        found: Counter[Place] = Counter()
        taking = [place for place, _ in ways.most_common() if place.takes(char)]
        for place in taking[:_MOST_FOLLOWED]:
            for following in self._walk.characters([self._walk.after(place)]):
                found[following] += ways[place]
        return found


def _favourite(ways: Counter[Place]) -> int:
    """The character that most ways agree on, of the likeliest ones."""
    first: Counter[int] = Counter()
    for place, count in ways.items():
        first[place.first] += count
    candidates = [char for char, _ in first.most_common(_CANDIDATES)]
    agreed = {c: sum(n for place, n in ways.items() if place.takes(c)) for c in candidates}
    return max(agreed, key=lambda char: agreed[char], default=0)
