"""Reads a caller's grammar strictly: GBNF without llama.cpp's tokens, EBNF without xgrammar's macros."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from inference_service.constraints.errors import MAX_DEPTH, MAX_REPETITIONS, ConstraintError
from inference_service.constraints.nodes import (
    EMPTY,
    MAX_CODE_POINT,
    PLAIN_CHAR,
    Chars,
    Literal,
    Node,
    Ref,
    char_set,
    either,
    inverted,
    is_plain,
    overlap,
    repeat,
    seq,
)

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\r\n]*|\r\n|\r|\n)
    |(?P<define>::=)
    |(?P<name>[A-Za-z][A-Za-z0-9_-]*)
    |(?P<literal>"(?:[^"\\\r\n]|\\.)*")
    |(?P<set>\[(?:[^\]\\\r\n]|\\.)*\])
    |(?P<count>\{[ \t]*[0-9]+[ \t]*(?:,[ \t]*[0-9]*[ \t]*)?\})
    |(?P<mark>[()|*+?.])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([trn\\\"\[\]^-]))")
_LETTERS = {"t": "\t", "r": "\r", "n": "\n"}
_MARKS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_RESERVED = frozenset({"true", "false", "TagDispatch", "Token", "ExcludeToken", "TokenTagDispatch", "Regex"})
_END = "end"


@dataclass(frozen=True, slots=True)
class ParsedGrammar:
    """The rules of a grammar, and where each of them stands."""

    rules: dict[str, Node]
    places: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int
    column: int
    is_first: bool
    """Nothing but white space before it on its line."""

    @property
    def place(self) -> str:
        return f"line {self.line}, column {self.column}"


def parse_gbnf(text: str) -> ParsedGrammar:
    r"""Parse the text of a grammar.

    `name ::= "text" [a-z] [^"\\] . ( ... ) | ...` with `*`, `+`, `?`, `{m}`, `{m,}`, `{m,n}` behind an item,
    `#` comments, and the escapes `\n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH`. Each rule begins on a
    line of its own. A name may have underscores, which become hyphens.

    Raises:
        ConstraintError: it is no grammar; says the line and the column.

    """
    return _Parser(text).run()


def _tokens(text: str) -> Iterator[_Token]:
    position, line, line_start, is_first = 0, 1, 0, True
    while position < len(text):
        match = _TOKEN.match(text, position)
        place = f"line {line}, column {position - line_start + 1}"
        if match is None:
            raise ConstraintError("nothing in a grammar looks like this", place)
        kind, found = str(match.lastgroup), match.group()
        if kind != "space":
            yield _Token(kind, found, line, position - line_start + 1, is_first)
            is_first = False
        position = match.end()
        if found in ("\n", "\r", "\r\n"):
            line, line_start, is_first = line + 1, position, True
    yield _Token(_END, "", line, position - line_start + 1, is_first)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0
        self._rules: dict[str, Node] = {}
        self._places: dict[str, str] = {}
        self._references: dict[str, _Token] = {}
        self._spellings: dict[str, str] = {}

    def run(self) -> ParsedGrammar:
        while self._token.kind != _END:
            self._rule()
        if "root" not in self._rules:
            raise ConstraintError("there is no rule named root")
        for name, token in self._references.items():
            if name not in self._rules:
                raise ConstraintError("this rule is not defined", token.place)
        return ParsedGrammar(self._rules, self._places)

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _advance(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _begins_rule(self) -> bool:
        return self._token.kind == "name" and self._tokens[self._next + 1].kind == "define"

    def _rule(self) -> None:
        token = self._token
        if not self._begins_rule() or not token.is_first:
            raise ConstraintError("a rule must begin here, on a line of its own: name ::= ...", token.place)
        name = self._name(self._advance())
        if name in self._rules:
            raise ConstraintError("this rule is defined twice", token.place)
        self._advance()
        self._places[name] = token.place
        self._rules[name] = self._choice()

    def _name(self, token: _Token) -> str:
        name = token.text.replace("_", "-")
        if token.text in _RESERVED:
            raise ConstraintError("no rule may have this name", token.place)
        if self._spellings.setdefault(name, token.text) != token.text:
            raise ConstraintError("two rules' names differ only in - and _", token.place)
        return name

    def _choice(self) -> Node:
        options = [self._sequence()]
        while self._token.text == "|" and self._token.kind == "mark":
            self._advance()
            options.append(self._sequence())
        return either(*options)

    def _sequence(self) -> Node:
        items: list[Node] = []
        while not (self._token.kind == _END or self._begins_rule() or self._token.text in ("|", ")")):
            items.append(self._counted(self._item()))
        return seq(*items)

    def _item(self) -> Node:
        token = self._advance()
        if token.kind == "literal":
            return Literal(_unescape(token.text[1:-1], token))
        if token.kind == "set":
            return _parse_set(token)
        if token.kind == "name":
            name = self._name(token)
            self._references.setdefault(name, token)
            return Ref(name)
        if token.text == ".":
            return PLAIN_CHAR
        if token.text == "(":
            return self._group(token)
        raise ConstraintError("an item is expected here", token.place)

    def _group(self, opening: _Token) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConstraintError(f"groups are nested more than {MAX_DEPTH} deep", opening.place)
        inner = self._choice()
        if self._token.text != ")":
            raise ConstraintError("this group is not closed", opening.place)
        self._advance()
        self._depth -= 1
        return inner

    def _counted(self, item: Node) -> Node:
        token = self._token
        if token.kind != "count" and token.text not in _MARKS:
            return item
        self._advance()
        if self._token.kind == "count" or self._token.text in _MARKS:
            raise ConstraintError("one quantifier already stands before this one", self._token.place)
        least, most = _MARKS[token.text] if token.kind == "mark" else _parse_count(token)
        if item == EMPTY:
            raise ConstraintError("there is nothing to repeat", token.place)
        return repeat(item, least, most)


def _parse_count(token: _Token) -> tuple[int, int | None]:
    first, comma, second = token.text[1:-1].replace(" ", "").replace("\t", "").partition(",")
    if max(len(first), len(second)) > len(str(MAX_REPETITIONS)):
        raise ConstraintError(f"at most {MAX_REPETITIONS} repetitions are accepted", token.place)
    least = int(first)
    most = int(second) if second else None if comma else least
    if max(least, most or 0) > MAX_REPETITIONS:
        raise ConstraintError(f"at most {MAX_REPETITIONS} repetitions are accepted", token.place)
    if most is not None and most < least:
        raise ConstraintError("the upper limit is below the lower one", token.place)
    return least, most


def _unescape(text: str, token: _Token) -> str:
    return "".join(chr(code_point) for code_point, _ in _code_points(text, token))


def _code_points(text: str, token: _Token) -> Iterator[tuple[int, bool]]:
    """Each code point, and whether it was escaped."""
    position = 0
    while position < len(text):
        escaped = text[position] == "\\"
        match = _ESCAPE.match(text, position) if escaped else None
        if escaped and match is None:
            raise ConstraintError("it has an escape that is not known", token.place)
        code_point = _escaped(match) if match else ord(text[position])
        if code_point > MAX_CODE_POINT or not is_plain(chr(code_point)):
            raise ConstraintError("it has a character that no constraint may have", token.place)
        yield code_point, escaped
        position = match.end() if match else position + 1


def _escaped(match: re.Match[str]) -> int:
    two, four, eight, letter = match.groups()
    return ord(_LETTERS.get(letter, letter)) if letter else int(two or four or eight, 16)


def _parse_set(token: _Token) -> Chars:
    inner = token.text[1:-1]
    is_negated = inner.startswith("^")
    points = list(_code_points(inner[1:] if is_negated else inner, token))
    ranges: list[tuple[int, int]] = []
    index = 0
    while index < len(points):
        is_range = index + 2 < len(points) and points[index + 1] == (ord("-"), False)
        low, high = points[index][0], points[index + 2 if is_range else index][0]
        if high < low:
            raise ConstraintError("a range ends before it begins", token.place)
        ranges.append((low, high))
        index += 3 if is_range else 1
    found = overlap(inverted(ranges) if is_negated else char_set(ranges), PLAIN_CHAR)
    if not found.ranges:
        raise ConstraintError("no character is in this set", token.place)
    return found
