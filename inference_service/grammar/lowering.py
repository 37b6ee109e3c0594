"""Grammars rewritten so that both engines take them at little cost."""

from __future__ import annotations

from collections.abc import Iterable

from inference_service.grammar.limits import BLOCK
from inference_service.grammar.nodes import (
    EMPTY,
    Chars,
    Choice,
    Literal,
    Node,
    Ref,
    Repeat,
    Rules,
    Sequence,
    either,
    repeat,
    seq,
)

_MOST_NESTED = 12
"""Groups inside groups; what is deeper gets a rule of its own."""

_MOST_FACTORED = 8
"""Beginnings inside beginnings that are written once."""


def lower(rules: Rules) -> dict[str, Node]:
    """Give whatever is repeated a rule of its own, split long repetitions into blocks, join beginnings.

    llama.cpp counts the rules inside a repeated group against its limit; a reference counts as one. It
    also follows every alternative by itself: of a thousand values, those that begin alike cost as much
    for every token as they are many. Rules that `root` does not need are left out.
    """
    return _Lowering(rules).run()


def factored(options: Iterable[Node], depth: int = 0) -> Node:
    """Offer alternatives, writing once what those have in common that begin with the same text."""
    groups: dict[str, list[Node]] = {}
    for option in options:
        first = option.items[0] if isinstance(option, Sequence) else option
        key = first.text[:1] if isinstance(first, Literal) and depth < _MOST_FACTORED else ""
        groups.setdefault(key, []).append(option)
    joined = (_joined(group, depth) if key else either(*group) for key, group in groups.items())
    return either(*joined)


def _joined(options: list[Node], depth: int) -> Node:
    if len(options) == 1:
        return options[0]
    split = [_split(option) for option in options]
    prefix = _common_prefix([text for text, _ in split])
    return seq(prefix, factored((seq(text[len(prefix) :], rest) for text, rest in split), depth + 1))


def _common_prefix(texts: list[str]) -> str:
    # What the first and the last in order share, all between them share.
    first, last = min(texts), max(texts)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]


def _split(option: Node) -> tuple[str, Node]:
    first, *rest = option.items if isinstance(option, Sequence) else (option,)
    return (first.text if isinstance(first, Literal) else ""), seq(*rest)


class _Lowering:
    def __init__(self, rules: Rules) -> None:
        self._source = rules
        self._rules: dict[str, Node] = {}
        self._hoisted: dict[Node, Ref] = {}
        self._waiting: list[str] = []

    def run(self) -> dict[str, Node]:
        self._need("root")
        while self._waiting:
            name = self._waiting.pop()
            self._rules[name] = self._lowered(self._source[name], 0)
        return self._rules

    def _need(self, name: str) -> None:
        if name not in self._rules and name in self._source:
            self._rules[name] = EMPTY
            self._waiting.append(name)

    def _lowered(self, node: Node, depth: int) -> Node:
        if isinstance(node, Ref):
            self._need(node.name)
            return node
        if isinstance(node, Sequence):
            return seq(*(self._lowered(item, depth) for item in node.items))
        if isinstance(node, Choice):
            return self._choice(node, depth)
        if isinstance(node, Repeat):
            return self._counted(self._atom(self._lowered(node.item, 0)), node.least, node.most)
        return node

    def _choice(self, node: Choice, depth: int) -> Node:
        if depth >= _MOST_NESTED:
            return self._atom(self._choice(node, 0))
        return factored(self._lowered(option, depth + 1) for option in node.options)

    def _atom(self, node: Node) -> Node:
        """The node itself if it is one element to an engine, else a reference to a rule that is it."""
        if isinstance(node, Chars | Ref) or (isinstance(node, Literal) and len(node.text) == 1):
            return node
        if node not in self._hoisted:
            name = self._free_name()
            self._rules[name] = node
            self._hoisted[node] = Ref(name)
        return self._hoisted[node]

    def _free_name(self) -> str:
        number = len(self._hoisted) + 1
        while f"part-{number}" in self._source or f"part-{number}" in self._rules:
            number += 1
        return f"part-{number}"

    def _counted(self, atom: Node, least: int, most: int | None) -> Node:
        if most is None:
            return repeat(atom, least) if least <= BLOCK else seq(self._exactly(atom, least), repeat(atom, 0))
        if most <= BLOCK:
            return repeat(atom, least, most)
        return seq(self._exactly(atom, least), self._up_to(atom, most - least))

    def _exactly(self, atom: Node, count: int) -> Node:
        blocks, rest = divmod(count, BLOCK)
        if blocks == 0:
            return repeat(atom, rest, rest)
        return seq(self._exactly(self._block(atom), blocks), repeat(atom, rest, rest))

    def _up_to(self, atom: Node, count: int) -> Node:
        blocks, rest = divmod(count, BLOCK)
        if blocks == 0:
            return repeat(atom, 0, rest)
        block = self._block(atom)
        return either(
            seq(self._up_to(block, blocks - 1), repeat(atom, 0, BLOCK - 1)),
            seq(self._exactly(block, blocks), repeat(atom, 0, rest)),
        )

    def _block(self, atom: Node) -> Node:
        return self._atom(repeat(atom, BLOCK, BLOCK))
