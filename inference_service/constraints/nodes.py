"""The syntax tree of a grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

MAX_CODE_POINT = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_CONTROL = ((0x00, 0x08), (0x0B, 0x0C), (0x0E, 0x1F))
"""Control characters that no answer is made to contain: all but tab, line feed and carriage return."""

Range: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Literal:
    """A fixed text, possibly empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set: code point ranges, both ends included, ascending and apart."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to another rule."""

    name: str


class _Hashed:
    """A node that remembers its hash, which is computed from all nodes inside it and asked for often."""

    __slots__ = ("_hash",)

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            found = hash((type(self).__name__, *(getattr(self, name) for name in self.__match_args__)))
            object.__setattr__(self, "_hash", found)
            return found

    _hash: int
    __match_args__: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sequence(_Hashed):
    """One after the other."""

    items: tuple[Node, ...]
    __hash__ = _Hashed.__hash__


@dataclass(frozen=True, slots=True)
class Choice(_Hashed):
    """Any of them; without options it describes no text at all."""

    options: tuple[Node, ...]
    __hash__ = _Hashed.__hash__


@dataclass(frozen=True, slots=True)
class Repeat(_Hashed):
    """The same, `least` to `most` times; without end if `most` is None."""

    item: Node
    least: int
    most: int | None
    __hash__ = _Hashed.__hash__


_QUANTIFIERS = {(0, None): "*", (1, None): "+", (0, 1): "?"}


def quantifier(least: int, most: int | None) -> str:
    """Write the quantifier of a repetition, as regular expressions and EBNF have it."""
    if (least, most) in _QUANTIFIERS:
        return _QUANTIFIERS[least, most]
    if most is None:
        return f"{{{least},}}"
    return f"{{{least}}}" if least == most else f"{{{least},{most}}}"


@dataclass(frozen=True, slots=True)
class Terminal(_Hashed):
    """A regular language that is read as one lexeme: no `Ref` inside.

    Lexemes are read greedily by engines. So the text of a terminal must never be a proper beginning of
    another text that the same or another terminal could read at the same place, unless what follows it
    tells them apart by its first character.
    """

    item: Node
    __hash__ = _Hashed.__hash__


@dataclass(frozen=True, slots=True)
class Intersection:
    """Texts of all of them. Only inside a `Terminal`."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Complement:
    """Texts that are none of the item's. Only inside a `Terminal`."""

    item: Node


Node: TypeAlias = "Literal | Chars | Ref | Sequence | Choice | Repeat | Terminal | Intersection | Complement"
Rules: TypeAlias = Mapping[str, Node]
"""Rules by name; `root` is where a text begins."""

EMPTY = Literal("")
NOTHING = Choice(())
"""No text at all, not even the empty one."""


def char_set(ranges: Iterable[Range]) -> Chars:
    """Unite ranges, which may overlap, to a set without surrogates."""
    merged: list[Range] = []
    for low, high in sorted(_without(ranges, _SURROGATES)):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return Chars(tuple(merged))


def _without(ranges: Iterable[Range], gap: Range) -> Iterator[Range]:
    for low, high in ranges:
        if low < gap[0]:
            yield low, min(high, gap[0] - 1)
        if high > gap[1]:
            yield max(low, gap[1] + 1), high


def chars(*spans: str) -> Chars:
    """Build a set of single characters ("_") and spans of two ("az")."""
    return char_set((ord(span[0]), ord(span[-1])) for span in spans)


def inverted(ranges: Iterable[Range]) -> Chars:
    """Build the set of all characters that are in none of the ranges."""
    gaps, start = [], 0
    for low, high in sorted(ranges):
        gaps.append((start, low - 1))
        start = max(start, high + 1)
    gaps.append((start, MAX_CODE_POINT))
    return char_set((low, high) for low, high in gaps if low <= high)


def overlap(one: Chars, other: Chars) -> Chars:
    """Build the set of the characters that are in both."""
    return char_set(
        (max(a, c), min(b, d)) for a, b in one.ranges for c, d in other.ranges if max(a, c) <= min(b, d)
    )


ANY_CHAR = inverted(())
PLAIN_CHAR = inverted(_CONTROL)
"""Characters that plain text may be made of."""


def is_plain(char: str) -> bool:
    return any(low <= ord(char) <= high for low, high in PLAIN_CHAR.ranges)


def seq(*items: Node | str) -> Node:
    """Put one after the other; neighbouring texts become one."""
    flat: list[Node] = []
    text = ""
    for item in items:
        if isinstance(item, str):
            text += item
            continue
        if isinstance(item, Choice) and not item.options:
            return NOTHING
        for part in item.items if isinstance(item, Sequence) else (item,):
            if isinstance(part, Literal):
                text += part.text
                continue
            if text:
                flat.append(Literal(text))
                text = ""
            flat.append(part)
    if text:
        flat.append(Literal(text))
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat)) if flat else EMPTY


def either(*options: Node | str) -> Node:
    """Offer alternatives; the same one twice counts once."""
    flat: dict[Node, None] = {}
    for option in options:
        node = Literal(option) if isinstance(option, str) else option
        flat.update(dict.fromkeys(node.options if isinstance(node, Choice) else (node,)))
    return next(iter(flat)) if len(flat) == 1 else Choice(tuple(flat))


def repeat(item: Node | str, least: int, most: int | None = None) -> Node:
    """Say something `least` to `most` times; without end if that is None.

    Repetitions inside one another become one where that describes the same texts: `(x{1,60}){1,60}` is
    `x{1,3600}`, which can be read in one way only.
    """
    node = Literal(item) if isinstance(item, str) else item
    if most == 0 or node == EMPTY:
        return EMPTY
    if node == NOTHING:
        return NOTHING if least else EMPTY
    if (least, most) == (1, 1):
        return node
    if isinstance(node, Repeat) and _is_gapless(node, least, most):
        unlimited = node.most is None or most is None
        return repeat(node.item, node.least * least, None if unlimited else (node.most or 0) * (most or 0))
    return Repeat(node, least, most)


def _is_gapless(inner: Repeat, least: int, most: int | None) -> bool:
    """Whether every count from the fewest to the most can be reached by repeating the repetition."""
    if least == most:
        return True
    if least == 0:
        return inner.least <= 1
    # Counts of n repetitions are [n * least, n * most]; those of n + 1 must begin where these end.
    return inner.most is None or least * inner.most + 1 >= (least + 1) * inner.least


def maybe(item: Node | str) -> Node:
    """Say something once or not at all."""
    return repeat(item, 0, 1)


def terminal(item: Node | str) -> Node:
    """Read a regular language as one lexeme; texts without alternatives stay what they are."""
    node = strip_terminals(Literal(item) if isinstance(item, str) else item)
    return node if isinstance(node, Literal) or node == NOTHING else Terminal(node)


def both(*items: Node) -> Node:
    """Describe the texts of all of them, at least one."""
    flat: dict[Node, None] = {}
    for item in items:
        flat.update(dict.fromkeys(item.items if isinstance(item, Intersection) else (item,)))
    if NOTHING in flat:
        return NOTHING
    return next(iter(flat)) if len(flat) == 1 else Intersection(tuple(flat))


def children(node: Node) -> tuple[Node, ...]:
    """Nodes directly inside this one."""
    match node:
        case Sequence(items) | Intersection(items):
            return items
        case Choice(options):
            return options
        case Repeat(item) | Terminal(item) | Complement(item):
            return (item,)
    return ()


def walk(node: Node) -> Iterator[Node]:
    """Go through a node and all nodes inside it."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(children(part))


def size_of(node: Node) -> int:
    """The size of a node, without the nodes inside it."""
    match node:
        case Literal(text):
            return len(text) + 1
        case Chars(ranges):
            return len(ranges)
    return 1


def parts_outside_terminals(node: Node) -> Iterator[Node]:
    """Go through a node and all nodes inside it, but not into terminals."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, Sequence):
            waiting += part.items
        elif isinstance(part, Choice):
            waiting += part.options
        elif isinstance(part, Repeat):
            waiting.append(part.item)


def transform(node: Node, change: Callable[[Node], Node]) -> Node:
    """Rebuild a node with its leaves (`Literal`, `Chars`, `Ref`) changed."""
    match node:
        case Sequence(items):
            return seq(*(transform(item, change) for item in items))
        case Choice(options):
            return either(*(transform(option, change) for option in options)) if options else node
        case Repeat(item, least, most):
            return repeat(transform(item, change), least, most)
        case Intersection(items):
            return both(*(transform(item, change) for item in items))
        case Complement(item):
            return Complement(transform(item, change))
        case Terminal(item):
            return terminal(transform(item, change))
    return change(node)


def strip_terminals(node: Node) -> Node:
    """The same texts, without marks of where a lexeme begins and ends."""
    if not any(isinstance(part, Terminal) for part in parts_outside_terminals(node)):
        return node
    match node:
        case Terminal(item):
            return strip_terminals(item)
        case Sequence(items):
            return seq(*map(strip_terminals, items))
        case Choice(options):
            return either(*map(strip_terminals, options))
        case Repeat(item, least, most):
            return repeat(strip_terminals(item), least, most)
    return node
