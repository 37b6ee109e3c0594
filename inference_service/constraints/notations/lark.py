"""Writes a grammar in llguidance's Lark notation, which llama.cpp uses.

Rules are its rules, and terminals its lexemes, with its own operators for intersections and complements.
llguidance reads lexemes greedily. So where a rule outside of terminals could be read in several ways, as in
grammars that callers write, each lexeme is a single character.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from inference_service.constraints.grammar import Grammar
from inference_service.constraints.nodes import (
    ANY_CHAR,
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
    quantifier,
    repeat,
    walk,
)

HEADER = "%llguidance {}\n"
_PLAIN = re.compile(r"[A-Za-z0-9 _,:;<>=@%&'\"!`~#]")


def to_lark(grammar: Grammar, end_ids: Collection[int] = ()) -> str:
    """Print a grammar.

    Args:
        grammar: what to print.
        end_ids: the tokens that may end a text of the grammar. llguidance knows a single one by itself, which
            is not always the one that the model ends with; none are printed where that one is enough.

    """
    return "".join(_Printer(grammar, end_ids).lines())


class _Printer:
    def __init__(self, grammar: Grammar, end_ids: Collection[int] = ()) -> None:
        self._grammar = grammar
        self._end_ids = end_ids
        self._names: dict[str, str] = {"root": "text" if end_ids else "start"}
        self._terminals: dict[Node, str] = {}
        self._terminal_lines: list[str] = []

    def lines(self) -> Iterator[str]:
        yield HEADER
        if self._end_ids:
            yield f"start: text end?\nend: <[{','.join(map(str, sorted(self._end_ids)))}]>\n"
        for name in self._grammar.rules:
            self._names.setdefault(name, f"r{len(self._names)}")
        for name, node in self._grammar.rules.items():
            yield f"{self._names[name]}: {self._rule(node)}\n"
        yield from self._terminal_lines

    def _rule(self, node: Node) -> str:
        match node:
            case Choice(options):
                return " | ".join(self._item(option) for option in options)
            case Sequence(items):
                return " ".join(self._item(item) for item in items)
        return self._item(node)

    def _item(self, node: Node) -> str:
        match node:
            case Literal(text):
                return _quoted(text)
            case Chars() | Terminal():
                return self._terminal(node.item if isinstance(node, Terminal) else node)
            case Ref(name):
                return self._names[name]
            case Repeat(item, least, most):
                return self._repeated(item) + quantifier(least, most)
        return f"({self._rule(node)})"

    def _repeated(self, item: Node) -> str:
        return f"({self._rule(item)})" if isinstance(item, Repeat) else self._item(item)

    def _terminal(self, node: Node) -> str:
        """The name of a terminal, defined at its first use."""
        name = self._terminals.get(node)
        if name is None:
            name = self._terminals[node] = f"T{len(self._terminals)}"
            self._terminal_lines.append(f"{name}: {self._expression(node)}\n")
        return name

    def _expression(self, node: Node) -> str:
        """A terminal's expression: regular expressions, joined by operators where they need any."""
        if not any(isinstance(part, Intersection | Complement) for part in walk(node)):
            return f"/{to_regex(node)}/"
        match node:
            case Intersection(items):
                return " & ".join(self._operand(item) for item in items)
            case Complement():
                return f"/{_ANY_TEXT}/ & {self._operand(node)}"
            case Choice(options):
                return " | ".join(self._terminal(option) for option in options)
            case Repeat(item, least, most):
                return self._terminal(item) + quantifier(least, most)
            case Sequence(items):
                return " ".join(
                    _quoted(i.text) if isinstance(i, Literal) else self._terminal(i) for i in items
                )
        raise TypeError(f"{node} is not regular")

    def _operand(self, node: Node) -> str:
        if isinstance(node, Complement):
            return f"~{self._terminal(node.item)}"
        return self._terminal(node)


def to_regex(node: Node) -> str:
    """Print a regular language without intersections and complements as a regular expression."""
    match node:
        case Choice(options):
            return f"({'|'.join(map(to_regex, options))})"
        case Sequence(items):
            return "".join(map(to_regex, items))
        case Literal(text):
            return "".join(_escaped(ord(char)) for char in text)
        case Chars(ranges):
            return f"[{''.join(_range(low, high) for low, high in ranges)}]"
        case Repeat(item, least, most):
            inner = to_regex(item)
            is_atom = isinstance(item, Chars | Choice) or (isinstance(item, Literal) and len(item.text) == 1)
            return (inner if is_atom else f"({inner})") + quantifier(least, most)
        case Terminal(item):
            return to_regex(item)
    raise TypeError(f"{node} is not regular")


def _quoted(text: str) -> str:
    """A literal of the notation, whose strings are JSON's with ASCII only."""
    return '"' + "".join(_quoted_char(char) for char in text) + '"'


def _quoted_char(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if " " <= char <= "~" or ord(char) >= 0x80:
        return char
    return f"\\u{ord(char):04x}"


def _escaped(code_point: int) -> str:
    char = chr(code_point)
    return char if _PLAIN.fullmatch(char) else f"\\x{{{code_point:X}}}"


def _range(low: int, high: int) -> str:
    return _in_set(low) if low == high else f"{_in_set(low)}-{_in_set(high)}"


def _in_set(code_point: int) -> str:
    char = chr(code_point)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code_point:X}}}"


_ANY_TEXT = to_regex(repeat(ANY_CHAR, 0))
