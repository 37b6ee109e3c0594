r"""Writes a grammar in EBNF for xgrammar, which TensorRT-LLM uses.

xgrammar (`cpp/grammar_parser.cc`) wants no digit first in a name, no empty alternative (`""` instead), at
most one quantifier behind an item, and has hexadecimal escapes of any length behind `\x`, and no `.`. So:
one rule a line, `""` for nothing, sets spelled out as ranges, `\uXXXX` and `\UXXXXXXXX` for everything but
plain ASCII. llama.cpp's GBNF and `gbnf.py` read the same text. It has neither intersections nor
complements: what holds some becomes the rules of an automaton.
"""

from __future__ import annotations

from inference_service.constraints.automata import to_rules
from inference_service.constraints.errors import MAX_REPETITIONS, ConstraintError
from inference_service.constraints.grammar import Grammar
from inference_service.constraints.nodes import (
    Chars,
    Choice,
    Complement,
    Intersection,
    Literal,
    Node,
    Ref,
    Repeat,
    Rules,
    Sequence,
    Terminal,
    either,
    quantifier,
    repeat,
    seq,
)

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
_PLAIN_IN_SETS = frozenset(" !#$%&'()*+,./:;<=>?@_`{|}~")


def to_ebnf(grammar: Grammar) -> str:
    """Print a grammar, one line for each rule, `root` first.

    Raises:
        ConstraintError: a count, or the automaton of an intersection or a complement, is too large.

    """
    rules = _plain_rules(grammar.rules)
    names = ["root", *(name for name in rules if name != "root")]
    return "".join(f"{name} ::= {_print(rules[name])}\n" for name in names)


def _plain_rules(rules: Rules) -> dict[str, Node]:
    """The same rules without terminals, intersections and complements."""
    found: dict[str, Node] = {}
    automata: dict[Node, Ref] = {}

    def plain(node: Node) -> Node:
        match node:
            case Terminal(item):
                return plain(item)
            case Intersection() | Complement():
                if node not in automata:
                    automata[node] = Ref(f"automaton-{len(automata) + 1}")
                    found.update(to_rules(node, automata[node].name))
                return automata[node]
            case Sequence(items):
                return seq(*map(plain, items))
            case Choice(options):
                return either(*map(plain, options))
            case Repeat(item, least, most):
                return repeat(plain(item), least, most)
        return node

    for name, node in rules.items():
        found[name] = plain(node)
    return found


def _print(node: Node) -> str:
    match node:
        case Choice(options):
            return " | ".join(
                _item(option) if isinstance(option, Choice) else _print(option) for option in options
            )
        case Sequence(items):
            return " ".join(_item(item) for item in items)
    return _item(node)


def _item(node: Node) -> str:
    match node:
        case Literal(text):
            return f'"{"".join(_in_literal(char) for char in text)}"'
        case Chars(ranges):
            return f"[{''.join(_range(low, high) for low, high in ranges)}]"
        case Ref(name):
            return name
        case Repeat(item, least, most):
            if max(least, most or 0) > MAX_REPETITIONS:
                raise ConstraintError(f"at most {MAX_REPETITIONS} repetitions can be written")
            return _repeated(item) + quantifier(least, most)
    return f"({_print(node)})"


def _repeated(item: Node) -> str:
    return f"({_print(item)})" if isinstance(item, Repeat) else _item(item)


def _in_literal(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    return char if " " <= char <= "~" else _escape(ord(char))


def _range(low: int, high: int) -> str:
    if low == high:
        return _in_set(low)
    return f"{_in_set(low)}-{_in_set(high)}"


def _in_set(code_point: int) -> str:
    char = chr(code_point)
    plain = char.isascii() and (char.isalnum() or char in _PLAIN_IN_SETS)
    return char if plain else _escape(code_point)


def _escape(code_point: int) -> str:
    return f"\\u{code_point:04X}" if code_point <= 0xFFFF else f"\\U{code_point:08X}"
