"""Follows a JSON object while the model writes it."""

from __future__ import annotations

import re
from typing import NoReturn, Protocol

SPACE = frozenset(" \t\n\r")

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = ("true", "false", "null")


class MalformedJson(Exception):
    """Expected: a text is no JSON object."""


class _State(Protocol):
    def __call__(self, char: str, /) -> _State: ...


class ObjectScanner:
    """Checks the text of one JSON object (RFC 8259), a character at a time.

    Linear in the text, however deep it is nested.
    """

    def __init__(self) -> None:
        self._state: _State = self._begin
        self._after_string: _State = self._after
        self._closers: list[str] = []
        self._token = ""

    @property
    def is_complete(self) -> bool:
        """Whether the object is closed."""
        return self._state == self._end

    def feed(self, char: str) -> None:
        """Take the next character in.

        Raises:
            MalformedJson: no object continues with it.

        """
        self._state = self._state(char)

    def _begin(self, char: str) -> _State:
        return self._opened(char) if char == "{" else _malformed()

    def _end(self, _char: str) -> _State:
        _malformed()

    def _opened(self, char: str) -> _State:
        self._closers.append("}" if char == "{" else "]")
        return self._first_key if char == "{" else self._first_value

    def _first_key(self, char: str) -> _State:
        return self._after(char) if char == "}" else self._key(char, self._first_key)

    def _key(self, char: str, again: _State | None = None) -> _State:
        if char in SPACE:
            return again or self._key
        if char != '"':
            _malformed()
        self._after_string = self._colon
        return self._string

    def _colon(self, char: str) -> _State:
        if char in SPACE:
            return self._colon
        return self._value if char == ":" else _malformed()

    def _first_value(self, char: str) -> _State:
        if char in SPACE:
            return self._first_value
        return self._after(char) if char == "]" else self._value(char)

    def _value(self, char: str) -> _State:
        if char in SPACE:
            return self._value
        if char in "{[":
            return self._opened(char)
        if char == '"':
            self._after_string = self._after
            return self._string
        self._token = char
        if char in "tfn":
            return self._word
        return self._number if char in "-0123456789" else _malformed()

    def _after(self, char: str) -> _State:
        if char in SPACE:
            return self._after
        if char == ",":
            return self._key if self._closers[-1] == "}" else self._value
        if char != self._closers[-1]:
            _malformed()
        self._closers.pop()
        return self._after if self._closers else self._end

    def _string(self, char: str) -> _State:
        if char == '"':
            return self._after_string
        if char == "\\":
            return self._escape
        return self._string if char >= " " else _malformed()

    def _escape(self, char: str) -> _State:
        self._token = ""
        if char == "u":
            return self._code
        return self._string if char in '"\\/bfnrt' else _malformed()

    def _code(self, char: str) -> _State:
        if char not in "0123456789abcdefABCDEF":
            _malformed()
        self._token += char
        return self._string if len(self._token) == len("0000") else self._code

    def _number(self, char: str) -> _State:
        if char in "+-.eE0123456789":
            self._token += char
            return self._number
        return self._after(char) if _NUMBER.fullmatch(self._token) else _malformed()

    def _word(self, char: str) -> _State:
        self._token += char
        if self._token in _WORDS:
            return self._after
        return self._word if any(word.startswith(self._token) for word in _WORDS) else _malformed()


def _malformed() -> NoReturn:
    raise MalformedJson
