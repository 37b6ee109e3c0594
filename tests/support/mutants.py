"""Random changes to bodies, some of which make them invalid JSON."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from rest_bridge.openai import policy
from tests.support.body_schema import CHAT, COMPLETION, components

Place = tuple[Any, Any]
"""A container and the name or number of an element of it."""

_NAMES = sorted(
    {
        *components()[CHAT]["properties"],
        *components()[COMPLETION]["properties"],
        *policy.REFUSED_IN_CHAT,
        *policy.REFUSED_IN_COMPLETIONS,
        *policy.WITHOUT_EFFECT,
        *("$ref", "additionalProperties", "enum", "not", "pattern", "properties", "type", "uniqueItems"),
        *("", "nobody_knows_this", "naïve 名", "a.b[0]", "__proto__", "x" * 200),
    }
)
_OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    2**31,
    2**32,
    -(2**31) - 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**30,
    1e300,
    -0.0,
    "",
    "1",
    "null",
    "function",
    "required",
    "\x00",
    "\ufffe\u2028\U0010ffff",
    "é" * 3000,
    [],
    [None],
    [[]],
    ["a", 1],
    list(range(140)),
    {},
    {"": None},
    {"type": "function"},
    {"type": "json_schema"},
    {"$ref": "#"},
    {"type": "object", "properties": {"a": {"type": 7}}},
    {"allOf": [{"$ref": "#/allOf/0"}]},
)
_TOKENS = (
    "NaN",
    "-Infinity",
    "1e999",
    "1" * 400,
    "-" + "9" * 5000,
    "1.0",
    "1e0",
    "01",
    "0x10",
    ".5",
    "+1",
    "undefined",
    '"\\ud800"',
    '"\\udc00x"',
    '"\\u0000"',
    '"\\q"',
    "'x'",
    "[" * 100 + "]" * 100,
    "[" * 5000 + "]" * 5000,
    '{"a":' * 150 + "1" + "}" * 150,
    '{"properties":{"a":' * 60 + "{}" + "}}" * 60,
    '{"items":' * 3000 + "{}" + "}" * 3000,
    "[" * 40,
)
_RAW = re.compile(r'"@raw@(\d+)@"')
_AGAIN = re.compile(r"@again@\d+@")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed body."""

    text: str
    """The text that is sent."""
    streamed: str | None
    """The text with `stream`; None if a change affected `stream` itself."""
    changes: tuple[str, ...]
    """A description of the changes, for the failure message."""


def mutant(random: Random, body: dict[str, Any]) -> Mutant:
    """A body with a few changes."""
    return _Mutation(random, body).result()


class _Mutation:
    """Changes one body."""

    def __init__(self, random: Random, body: dict[str, Any]) -> None:
        self._random = random
        self._body: Any = copy.deepcopy(body)
        self._changes: list[str] = []
        self._ways: list[Callable[[Any, Any], None]] = [
            self._drop,
            self._replace,
            self._replace,
            self._put_token,
            self._rename,
            self._nest,
            self._add,
            self._add,
            self._repeat,
            self._shift,
            self._shift,
        ]

    def result(self) -> Mutant:
        for _ in range(self._random.choice([1, 1, 1, 2, 3])):
            self._change()
        text = _written(self._body)
        if self._random.random() < 0.04:
            return Mutant(self._damaged(text), None, (*self._changes, "damage"))
        is_left = isinstance(self._body, dict) and self._body.get("stream") is False
        streamed = _written({**self._body, "stream": True}) if is_left else None
        return Mutant(text, streamed, tuple(self._changes))

    def _change(self) -> None:
        places = list(_places(self._body))
        if not places:
            return
        top = [place for place in places if place[0] is self._body]
        container, key = self._random.choice(top if self._random.random() < 0.4 else places)
        way = self._random.choice(self._ways)
        self._changes.append(f"{way.__name__} {key!r}"[:80])
        way(container, key)

    def _drop(self, container: Any, key: Any) -> None:
        del container[key]

    def _replace(self, container: Any, key: Any) -> None:
        container[key] = copy.deepcopy(self._random.choice(_OTHERS))

    def _put_token(self, container: Any, key: Any) -> None:
        container[key] = f"@raw@{self._random.randrange(len(_TOKENS))}@"

    def _rename(self, container: Any, key: Any) -> None:
        if isinstance(key, str):
            other = self._random.choice([key + "_", key.upper(), key[1:], *self._random.sample(_NAMES, 3)])
            container[other] = container.pop(key)
        else:
            container.reverse()

    def _nest(self, container: Any, key: Any) -> None:
        value = container[key]
        container[key] = self._random.choice([[value], {"value": value}, [value, value], json.dumps(value)])

    def _add(self, container: Any, key: Any) -> None:
        value = copy.deepcopy(self._random.choice(_OTHERS))
        if isinstance(container, dict):
            container.setdefault(self._random.choice(_NAMES), value)
        else:
            container.insert(key, value)

    def _repeat(self, container: Any, key: Any) -> None:
        """Repeat a name of an object, or an element of a list many times."""
        if isinstance(container, dict):
            container[f"{key}@again@{len(container)}@"] = copy.deepcopy(self._random.choice(_OTHERS))
        else:
            container[key:key] = [container[key]] * self._random.choice([1, 4, 20, 130])

    def _shift(self, container: Any, key: Any) -> None:
        """Move a value out of its range: a number by a little or a lot, a text or a list by its length."""
        value = container[key]
        if isinstance(value, bool) or value is None or isinstance(value, dict):
            container[key] = not value
        elif isinstance(value, int | float):
            container[key] = self._random.choice([value + 1, value - 1, value * 1000, -value, value + 0.001])
        else:
            container[key] = self._random.choice([value[:0], value * 5, value * 400])

    def _damaged(self, text: str) -> str:
        at = self._random.randrange(len(text))
        head, tail = text[:at], text[at:]
        return self._random.choice([head, tail, f"{head}\x00{tail}", text + text, f"[{text}]"])


def _written(body: Any) -> str:
    text = _RAW.sub(lambda match: _TOKENS[int(match[1])], json.dumps(body))
    return _AGAIN.sub("", text)


def _places(value: Any) -> Iterator[Place]:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
