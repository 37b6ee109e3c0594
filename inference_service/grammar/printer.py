r"""A grammar as text, in the words that llama.cpp's GBNF and xgrammar's EBNF read alike.

llama.cpp (`src/llama-grammar.cpp`) takes names of letters, digits and hyphens, a newline only where a rule
ends, and no backslash before characters it does not know. xgrammar (`cpp/grammar_parser.cc`) wants no
digit first in a name, no empty alternative (`""` instead), at most one quantifier behind an item, and has
hexadecimal escapes of any length behind `\x`, and no `.`. So: one rule a line, `""` for nothing, sets
spelled out as ranges, `\uXXXX` and `\UXXXXXXXX` for everything but plain ASCII.
"""

from __future__ import annotations

from inference_service.grammar.nodes import Chars, Choice, Literal, Node, Ref, Repeat, Rules, Sequence

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
_PLAIN_IN_SETS = frozenset(" !#$%&'()*+,./:;<=>?@_`{|}~")
_QUANTIFIERS = {(0, None): "*", (1, None): "+", (0, 1): "?"}


def print_rules(rules: Rules) -> str:
    """One line for each rule, `root` first."""
    names = ["root", *(name for name in rules if name != "root")]
    return "".join(f"{name} ::= {_print(rules[name])}\n" for name in names)


def _print(node: Node) -> str:
    if isinstance(node, Choice):
        return " | ".join(_print(option) for option in node.options)
    if isinstance(node, Sequence):
        return " ".join(_item(item) for item in node.items)
    return _item(node)


def _item(node: Node) -> str:
    if isinstance(node, Literal):
        return f'"{"".join(_in_literal(char) for char in node.text)}"'
    if isinstance(node, Chars):
        return f"[{''.join(_range(low, high) for low, high in node.ranges)}]"
    if isinstance(node, Ref):
        return node.name
    if isinstance(node, Repeat):
        return _repeated(node.item) + _quantifier(node.least, node.most)
    return f"({_print(node)})"


def _repeated(item: Node) -> str:
    # llama.cpp repeats a literal as a whole, xgrammar too; nested repetitions need a group in both.
    return f"({_print(item)})" if isinstance(item, Repeat) else _item(item)


def _quantifier(least: int, most: int | None) -> str:
    if (least, most) in _QUANTIFIERS:
        return _QUANTIFIERS[least, most]
    if most is None:
        return f"{{{least},}}"
    return f"{{{least}}}" if least == most else f"{{{least},{most}}}"


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
