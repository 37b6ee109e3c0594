"""Writes JSON as grammar: strings, numbers, values of any type, and the white space between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from inference_service.constraints.grammar import GrammarBuilder
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
    both,
    char_set,
    chars,
    either,
    maybe,
    overlap,
    repeat,
    seq,
    terminal,
)

MAX_DIGITS = 18
"""Of an integer, and before the point of a number."""
MAX_DECIMALS = 20
MAX_WHITESPACE = 64
"""Characters of white space in one place, where it is flexible."""

RAW_CHAR = char_set([(0x20, 0x21), (0x23, 0x5B), (0x5D, 0x10FFFF)])
"""Characters that stand for themselves in a JSON string."""
DIGIT = chars("09")
DIGIT_1_9 = chars("19")
_HEX = chars("09", "af", "AF")
_LETTER_ESCAPES = {0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}
_ESCAPES = {code: _LETTER_ESCAPES.get(code, f"\\u{code:04x}") for code in (*range(1, 0x20), 0x22, 0x5C)}
"""The one way in which each of these is written. NUL is left out: many readers take it for an end."""

WRITTEN_CHAR = either(RAW_CHAR, *_ESCAPES.values())
"""A character in its one usual spelling."""
INTEGER = either("0", seq(maybe("-"), DIGIT_1_9, repeat(DIGIT, 0, MAX_DIGITS - 1)))
NUMBER = seq(
    maybe("-"),
    either("0", seq(DIGIT_1_9, repeat(DIGIT, 0, MAX_DIGITS - 1))),
    maybe(seq(".", repeat(DIGIT, 1, MAX_DECIMALS))),
    maybe(seq(chars("e", "E"), maybe(chars("+", "-")), repeat(DIGIT, 1, 2))),
)
NULL = Literal("null")
BOOLEAN = either("true", "false")


class Whitespace(Enum):
    """The white space that is allowed between the parts of a JSON text."""

    COMPACT = "compact"
    """At most one space, behind a colon or a comma."""
    FLEXIBLE = "flexible"
    """Spaces, tabs and line breaks anywhere, up to 64 in one place."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The structural characters of JSON, with the white space that may stand around them."""

    begin_object: Node
    end_object: Node
    begin_array: Node
    end_array: Node
    comma: Node
    colon: Node
    """Part of the lexeme of a member's name."""


def marks(whitespace: Whitespace) -> Marks:
    """Build the structural characters."""
    if whitespace is Whitespace.COMPACT:
        behind = maybe(" ")
        return Marks(seq("{"), seq("}"), seq("["), seq("]"), terminal(seq(",", behind)), seq(":", behind))
    space = repeat(chars("\t", "\n", "\r", " "), 0, MAX_WHITESPACE)
    around = {name: terminal(seq(space, name, space)) for name in ",:"}
    return Marks(
        terminal(seq("{", space)),
        terminal(seq(space, "}")),
        terminal(seq("[", space)),
        terminal(seq(space, "]")),
        around[","],
        seq(space, ":", space),
    )


def dumps(value: object) -> str:
    """The JSON text of a value, as compact as it gets.

    Raises:
        ValueError: it has none: half a surrogate pair, or no finite number.

    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text.encode()
    return text


def _free_char() -> Node:
    """A character of a string, escaped or not. A surrogate pair of escapes is one character."""
    code = either(
        seq(chars("19", "ac", "ef", "AC", "EF"), repeat(_HEX, 3, 3)),
        seq(chars("d", "D"), chars("07"), repeat(_HEX, 2, 2)),
        seq("0", chars("19", "af", "AF"), repeat(_HEX, 2, 2)),
        seq("00", chars("19", "af", "AF"), _HEX),
        seq("000", chars("19", "af", "AF")),
        seq(
            *(chars("d", "D"), chars("89", "ab", "AB"), repeat(_HEX, 2, 2), "\\u"),
            *(chars("d", "D"), chars("cf", "CF"), repeat(_HEX, 2, 2)),
        ),
    )
    escape = seq("\\", either(chars('"', "\\", "/", "b", "f", "n", "r", "t"), seq("u", code)))
    return either(RAW_CHAR, escape)


FREE_CHAR = _free_char()


def free_text(least: int = 0, most: int | None = None) -> Node:
    """The part between the quotes of a string of so many characters, escaped in any way."""
    return repeat(FREE_CHAR, least, most)


@lru_cache(maxsize=2048)
def written(language: Node) -> Node:
    """Texts of a language as they stand between the quotes of a JSON string, in their usual spelling."""
    match language:
        case Complement(item):
            return both(repeat(WRITTEN_CHAR, 0), Complement(written(item)))
        case Sequence(items):
            return seq(*map(written, items))
        case Choice(options):
            return either(*map(written, options)) if options else language
        case Repeat(item, least, most):
            return repeat(written(item), least, most)
        case Intersection(items):
            return both(*map(written, items))
    return _written_leaf(language)


def _written_leaf(node: Node) -> Node:
    match node:
        case Literal(text):
            return Literal("".join(_ESCAPES.get(ord(char), char) for char in text))
        case Chars():
            raw = overlap(node, RAW_CHAR)
            below = [(low, high) for low, high in node.ranges if low <= 0x5C]
            escaped = (
                text for code, text in _ESCAPES.items() if any(low <= code <= high for low, high in below)
            )
            return either(*([raw] if raw.ranges else []), *escaped)
    return node


def string(inner: Node) -> Node:
    """A JSON string with this between its quotes, as one lexeme."""
    return terminal(seq('"', inner, '"'))


@lru_cache(maxsize=256)
def free_string(least: int = 0, most: int | None = None) -> Node:
    """A JSON string of so many characters, escaped in any way, as one lexeme."""
    return string(free_text(least, most))


@dataclass(frozen=True, slots=True)
class JsonRules:
    """Rules for JSON values of any kind."""

    builder: GrammarBuilder
    marks: Marks

    def _shared(self, name: str, make: Callable[[], Node]) -> Ref:
        return self.builder.shared(name, make)

    def string(self) -> Node:
        return _ANY_STRING

    def value(self) -> Ref:
        """Any value, nested without limit."""
        return self._shared(
            "json-value",
            lambda: either(
                self.object(), self.array(), _ANY_STRING, _ANY_NUMBER, Literal("true"), Literal("false"), NULL
            ),
        )

    def object(self) -> Ref:
        """Any object."""
        name = terminal(seq('"', free_text(), '"', self.marks.colon))
        return self._shared("json-object", lambda: self.members(seq(name, self.value()), 0, None))

    def array(self) -> Ref:
        """Any array."""
        return self._shared("json-array", lambda: self.elements(self.value(), 0, None))

    def members(self, member: Node, least: int, most: int | None) -> Node:
        """An object of so many members, each like this one."""
        return seq(self.marks.begin_object, self.listed(member, least, most), self.marks.end_object)

    def elements(self, item: Node, least: int, most: int | None) -> Node:
        """An array of so many elements, each like this one."""
        return seq(self.marks.begin_array, self.listed(item, least, most), self.marks.end_array)

    def listed(self, item: Node, least: int, most: int | None) -> Node:
        """So many of the same, with commas between them."""
        if most == 0:
            return seq()
        rest = repeat(seq(self.marks.comma, item), max(least - 1, 0), None if most is None else most - 1)
        return seq(item, rest) if least else maybe(seq(item, rest))


_ANY_STRING = free_string()
_ANY_NUMBER = terminal(NUMBER)
ANY_TEXT = repeat(ANY_CHAR, 0)
"""Every text, before it is written as JSON."""
