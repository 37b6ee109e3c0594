"""The arguments of earlier calls: a JSON object, or any text that a model or a caller made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

_DEEPEST = 64
"""Levels of brackets; templates and encoders recurse into a value."""

_STRING = re.compile(r'"((?:[^"\\]|\\.)*)', re.DOTALL)


class RawArguments(str):
    """A text that no JSON object stands for without loss. `tojson` of a template writes it as it is."""

    __slots__ = ()


def read_arguments(text: str) -> dict[str, Any] | RawArguments:
    """The object that a text is, an empty one for an empty text, as some clients send it.

    Any other text is the arguments as well: a call that was cut short is unfinished JSON. So is an object
    that would come back as another text: with a key twice, a number that no float holds, half a surrogate
    pair, or more than 64 levels.
    """
    if not text.strip():
        return {}
    if _depth(text) > _DEEPEST:
        return RawArguments(text)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, ArithmeticError):
        return RawArguments(text)
    return value if isinstance(value, dict) else RawArguments(text)


def written_arguments(arguments: dict[str, Any] | RawArguments) -> str:
    """The text of arguments, as templates write it."""
    if isinstance(arguments, RawArguments):
        return str(arguments)
    return json.dumps(arguments, ensure_ascii=False)


def strings_in(arguments: dict[str, Any] | RawArguments) -> Iterator[str]:
    """The keys and strings in arguments, decoded; of a text that is no object, itself as well."""
    if isinstance(arguments, RawArguments):
        yield str(arguments)
        yield from (_decoded(match[1]) for match in _STRING.finditer(arguments))
    else:
        yield from strings_in_value(arguments)


def strings_in_value(value: object) -> Iterator[str]:
    """The keys and strings in a JSON value."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            waiting += [*part.values(), *part.keys()]
        elif isinstance(part, list):
            waiting += part


def _decoded(text: str) -> str:
    try:
        decoded = json.loads(f'"{text}"', strict=False)
    except ValueError:
        return text
    return str(decoded)


def _depth(text: str) -> int:
    """No fewer levels than the text has: brackets in its strings count as well."""
    depth = deepest = 0
    for char in re.findall(r"[\[\]{}]", text):
        depth += 1 if char in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key comes twice")
    return value


def _float(text: str) -> float:
    value = float(text)
    # An infinite one equals nothing that JSON writes.
    if Decimal(repr(value)) != Decimal(text):
        raise ValueError("no float has this value")
    return value


def _no_number(_name: str) -> NoReturn:
    raise ValueError("it is no number of JSON")
