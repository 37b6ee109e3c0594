"""Compiles regular expressions of a bounded width for a matcher that never backtracks.

Python's own parser reads a pattern. The pattern is then written twice in RE2's syntax: as it is, and as the
expression of its unfinished matches, which are the texts that more text could turn into a match. The second
expression shows exactly how much of a growing text must be held back.
"""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import re2

WIDEST = 256
"""Longest text that a pattern may match, in characters."""

_MEMORY = 64 * 1024 * 1024
"""What one expression and its automata may take, in bytes. Where it is spent RE2 gets slower, not wrong."""

_parser: Any = importlib.import_module("re._parser")

_DIGIT = r"\p{Nd}"
_WORD = r"\p{L}\p{M}\p{N}_"
_SPACE = r"\s\x{b}\x{1c}-\x{1f}\x{85}\p{Z}"
_SETS = {
    "CATEGORY_DIGIT": _DIGIT,
    "CATEGORY_NOT_DIGIT": r"\P{Nd}",
    "CATEGORY_WORD": _WORD,
    "CATEGORY_SPACE": _SPACE,
}
_COMPLEMENTS = {"CATEGORY_NOT_WORD": f"[^{_WORD}]", "CATEGORY_NOT_SPACE": f"[^{_SPACE}]"}

NOT_WORD = f"[^{_WORD}]"
"""A character that can stand beside a whole word."""


class PatternError(ValueError):
    """A pattern cannot be used; the message completes a sentence that names the pattern."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A pattern in RE2's syntax."""

    whole: str
    """Matches what the pattern matches."""
    unfinished: str
    """Matches the empty text, and every text that is shorter than a match that begins with it."""


Part = tuple[str, "str | None"]
"""The two expressions of a part of a pattern; the second is None where the part matches only emptiness."""


@functools.lru_cache(maxsize=4096)
def translate(pattern: str) -> Expression:
    """Read a pattern in the syntax of Python's `re`: no anchors, look-around, references or flags.

    Raises:
        PatternError: it is malformed, has something of that, or matches nothing or more than `WIDEST`.

    """
    parsed = _parse(pattern)
    least, most = parsed.getwidth()
    if least == 0:
        raise PatternError("matches the empty text")
    if most > WIDEST:
        raise PatternError(f"must not match more than {WIDEST} characters; bound its repeats, as in {{0,64}}")
    whole, unfinished = _sequence(parsed)
    expression = Expression(whole, unfinished or "")
    for source in (expression.whole, expression.unfinished):
        compile_re2(source, ignore_case=True)
    return expression


def compile_re2(source: str, *, ignore_case: bool) -> Any:
    """Compile RE2 syntax for longest matches.

    Raises:
        PatternError: it takes too much memory.

    """
    options = re2.Options()
    options.longest_match = True
    options.case_sensitive = not ignore_case
    options.max_mem = _MEMORY
    options.log_errors = False
    try:
        return re2.compile(source, options)
    except re2.error as error:
        raise PatternError("is too large") from error


def _parse(pattern: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            parsed = _parser.parse(pattern)
    except (re.error, FutureWarning, OverflowError, RecursionError) as error:
        raise PatternError(f"is not a regular expression: {error}") from error
    if parsed.state.flags & ~re.UNICODE:
        raise PatternError("must have no flags; say ignore_case for the whole rule")
    return parsed


def _sequence(items: Any) -> Part:
    parts = [_part(str(kind), argument) for kind, argument in items]
    unfinished: str | None = None
    for whole, open_part in reversed(parts):
        rest = None if unfinished is None else whole + unfinished
        unfinished = _either([text for text in (open_part, rest) if text is not None])
    return "".join(whole for whole, _ in parts), unfinished


def _part(kind: str, argument: Any) -> Part:
    if kind not in _PARTS:
        raise PatternError(_refusal(kind))
    return _PARTS[kind](argument)


def _refusal(kind: str) -> str:
    if kind == "AT":
        return r"must have no anchors (^, $, \b); say whole_word for the whole rule"
    return f"must have no {kind.lower().replace('_', ' ')}"


def _either(options: Sequence[str]) -> str | None:
    distinct = list(dict.fromkeys(options))
    if len(distinct) < 2:
        return distinct[0] if distinct else None
    return f"(?:{'|'.join(distinct)})"


def _branch(argument: Any) -> Part:
    parts = [_sequence(option) for option in argument[1]]
    return _either([whole for whole, _ in parts]) or "", _either([u for _, u in parts if u is not None])


def _group(argument: Any) -> Part:
    _, added, removed, items = argument
    if added or removed:
        raise PatternError("must have no flags; say ignore_case for the whole rule")
    return _sequence(items)


def _repeat(argument: Any) -> Part:
    least, most, items = argument
    whole, unfinished = _sequence(items)
    if most == 0 or unfinished is None:
        return "", None
    before = f"(?:{whole}){{0,{most - 1}}}" if most > 1 else ""
    return f"(?:{whole}){{{least},{most}}}", before + unfinished


def _class(items: Any) -> Part:
    negated = bool(items) and str(items[0][0]) == "NEGATE"
    members, others = "", []
    for kind, value in items[negated:]:
        if str(value) in _COMPLEMENTS:
            others.append(_COMPLEMENTS[str(value)])
        else:
            members += _member(str(kind), value)
    if negated and others:
        raise PatternError(r"must have no \W or \S inside [^...]")
    own = [f"[{'^' * negated}{members}]"] if members else []
    return _either([*own, *others]) or "", ""


def _member(kind: str, value: Any) -> str:
    if kind == "LITERAL":
        return _char(value)
    return f"{_char(value[0])}-{_char(value[1])}" if kind == "RANGE" else _SETS[str(value)]


def _char(code: int) -> str:
    return f"\\x{{{code:x}}}"


_PARTS: dict[str, Callable[[Any], Part]] = {
    "LITERAL": lambda code: (_char(code), ""),
    "NOT_LITERAL": lambda code: (f"[^{_char(code)}]", ""),
    "ANY": lambda _: (r"[^\n]", ""),
    "IN": _class,
    "BRANCH": _branch,
    "SUBPATTERN": _group,
    "MAX_REPEAT": _repeat,
    "MIN_REPEAT": _repeat,
}
