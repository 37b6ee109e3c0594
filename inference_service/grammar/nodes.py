"""The syntax tree of a grammar: what both engines' dialects can say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

LAST_CODE_POINT = 0x10FFFF
WRITABLE = ((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0xD7FF), (0xE000, 0x3FFFF), (0xC0000, LAST_CODE_POINT))
"""Characters that a constraint may be made of. Left out are surrogates, which no text has; control
characters and the unassigned planes 4 to 11, whose bytes are missing in the vocabulary of some models: where
a grammar demands what no token can write, llama.cpp ends the process."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A fixed text, possibly empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of a set: code point ranges, both ends included, ascending and apart."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """What another rule says."""

    name: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Any of them."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same, `least` to `most` times; without end if that is None."""

    item: Node
    least: int
    most: int | None


Node: TypeAlias = "Literal | Chars | Ref | Sequence | Choice | Repeat"
Rules: TypeAlias = Mapping[str, Node]
"""Rules by name; `root` is where a text begins."""

EMPTY = Literal("")


def char_set(ranges: Iterable[tuple[int, int]]) -> Chars:
    """Unite ranges, which may overlap, to a set of the characters in them that are writable."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(_writable(ranges)):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return Chars(tuple(merged))


def _writable(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for low, high in ranges:
        for first, last in WRITABLE:
            if max(low, first) <= min(high, last):
                yield max(low, first), min(high, last)


def is_writable(char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in WRITABLE)


def chars(*spans: str) -> Chars:
    """Build a set of single characters ("_") and spans of two ("az")."""
    return char_set((ord(span[0]), ord(span[-1])) for span in spans)


def complement(ranges: Iterable[tuple[int, int]]) -> Chars:
    """Build the set of all characters that are in none of the ranges."""
    gaps, start = [], 0
    for low, high in sorted(ranges):
        gaps.append((start, low - 1))
        start = max(start, high + 1)
    return char_set([*gaps, (start, LAST_CODE_POINT)])


def overlap(one: Chars, other: Chars) -> Chars:
    """Build the set of the characters that are in both."""
    return char_set(
        (max(a, c), min(b, d)) for a, b in one.ranges for c, d in other.ranges if max(a, c) <= min(b, d)
    )


ANY_CHAR = complement(())


def seq(*items: Node | str) -> Node:
    """Put one after the other; neighbouring texts become one."""
    flat: list[Node] = []
    for item in items:
        for part in _parts(Literal(item) if isinstance(item, str) else item):
            if isinstance(part, Literal) and flat and isinstance(flat[-1], Literal):
                flat[-1] = Literal(flat[-1].text + part.text)
            elif part != EMPTY:
                flat.append(part)
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat)) if flat else EMPTY


def _parts(node: Node) -> tuple[Node, ...]:
    return node.items if isinstance(node, Sequence) else (node,)


def either(*options: Node | str) -> Node:
    """Offer alternatives, at least one; the same one twice counts once."""
    flat: dict[Node, None] = {}
    for option in options:
        node = Literal(option) if isinstance(option, str) else option
        flat.update(dict.fromkeys(node.options if isinstance(node, Choice) else (node,)))
    return next(iter(flat)) if len(flat) == 1 else Choice(tuple(flat))


def repeat(item: Node | str, least: int, most: int | None = None) -> Node:
    """Say something `least` to `most` times; without end if that is None."""
    node = Literal(item) if isinstance(item, str) else item
    if most == 0 or node == EMPTY:
        return EMPTY
    return node if (least, most) == (1, 1) else Repeat(node, least, most)


def maybe(item: Node | str) -> Node:
    """Say something once or not at all."""
    return repeat(item, 0, 1)


def children(node: Node) -> tuple[Node, ...]:
    """Nodes directly inside this one."""
    if isinstance(node, Sequence):
        return node.items
    if isinstance(node, Choice):
        return node.options
    return (node.item,) if isinstance(node, Repeat) else ()
