r"""Parses regular expressions into the nodes of a grammar.

What is understood means the same in Python's `re` and in ECMAScript: literals, `.`, sets, `\d \w \s` and
their opposites, groups, `|`, `* + ? {m} {m,} {m,n}` greedy or lazy, and `^` and `$` at the ends. Classes
are ASCII, as ECMAScript has them; opposites hold for Python's wider ones too, so `\D` and `\W` are ASCII
as well. Where a pattern is going to be excluded, it is read at its widest instead (`widest`), so that no
reader finds it in what is left. Lookaheads hold at the outermost level. Everything else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from inference_service.constraints.errors import (
    MAX_ALTERNATIVES,
    MAX_DEPTH,
    MAX_REPETITIONS,
    ConstraintError,
    check_time,
)
from inference_service.constraints.nodes import (
    ANY_CHAR,
    EMPTY,
    PLAIN_CHAR,
    Chars,
    Complement,
    Literal,
    Node,
    both,
    char_set,
    chars,
    either,
    inverted,
    overlap,
    repeat,
    seq,
    transform,
)


@dataclass(frozen=True, slots=True)
class Branch:
    """One alternative, and whether it is tied to the beginning and the end of the text."""

    node: Node = EMPTY
    from_start: bool = False
    to_end: bool = False


_ASCII = char_set([(0, 0x7F)])
_DIGITS = chars("09")
_WORD = chars("09", "AZ", "_", "az")
_SPACES = chars("\t\r", " ")
_ALL_SPACES = chars(
    *("\t\r", "\x1c ", "\x85", "\xa0", "\u1680", "\u2000\u200a", "\u2028\u2029", "\u202f", "\u205f"),
    *("\u3000", "\ufeff"),
)
"""The characters that Python or ECMAScript treats as white space."""
_DOT = inverted([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)])
_CLASSES = {
    "d": _DIGITS,
    "D": overlap(_ASCII, inverted(_DIGITS.ranges)),
    "w": _WORD,
    "W": overlap(_ASCII, inverted(_WORD.ranges)),
    "s": _SPACES,
    "S": inverted(_ALL_SPACES.ranges),
}
_WIDEST = {
    "d": char_set([*_DIGITS.ranges, (0x80, 0x10FFFF)]),
    "D": inverted(_DIGITS.ranges),
    "w": char_set([*_WORD.ranges, (0x80, 0x10FFFF)]),
    "W": inverted(_WORD.ranges),
    "s": _ALL_SPACES,
    "S": inverted(_SPACES.ranges),
}
"""The characters that a class may hold at most, where it is negated."""
_CHECKED_EVERY = 1024
"""Items of a pattern that are read from one look at the time to the next."""
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_CODE = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")
_COUNT = re.compile(r"\{([0-9]+)(,?)([0-9]*)\}")
_GROUP = re.compile(r"\?(?::|P?<[A-Za-z_][A-Za-z0-9_]*>)")
_REFUSED_GROUPS = (
    ("?=", "lookahead"),
    ("?!", "lookahead"),
    ("?<=", "lookbehind"),
    ("?<!", "lookbehind"),
    ("?P=", "a backreference"),
    ("?>", "an atomic group"),
    ("?(", "a condition"),
    ("?#", "a comment"),
    ("?", "an inline flag"),
)
_PLAIN_ESCAPES = frozenset("^$\\.*+?()[]{}|/-\"'#&~,:;=!<>@%`_ ")
_SIMPLE_COUNTS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def whole_text(pattern: str) -> Node:
    """The texts that match a pattern from beginning to end, of plain characters.

    Raises:
        ConstraintError: it is no pattern, or uses what cannot be honoured; says the position, from 0.

    """
    language = either(*(branch.node for branch in _Parser(pattern, is_whole=True).run()))
    return transform(language, lambda leaf: overlap(leaf, PLAIN_CHAR) if isinstance(leaf, Chars) else leaf)


def found_text(pattern: str, *, widest: bool = False) -> Node:
    """The texts in which a pattern is found, anywhere unless it is anchored.

    Args:
        pattern: searched for, as JSON Schema's `pattern` is.
        widest: read it so that it holds every text in which any reader finds it.

    Raises:
        ConstraintError: as `whole_text`.

    """
    return either(*(_with_surroundings(branch, widest) for branch in _Parser(pattern, widest=widest).run()))


def _with_surroundings(branch: Branch, widest: bool) -> Node:
    before = EMPTY if branch.from_start else _ANY_TEXT
    # To Python, $ also stands before a line break that ends the text.
    last = repeat("\n", 0, 1) if widest else EMPTY
    return seq(before, branch.node, last if branch.to_end else _ANY_TEXT)


_ANY_TEXT = repeat(ANY_CHAR, 0)


class _Parser:
    def __init__(self, pattern: str, *, widest: bool = False, is_whole: bool = False) -> None:
        self._pattern = pattern
        self._is_whole = is_whole
        """Whether the pattern describes the whole text, and is not searched for."""
        self._widest = widest
        self._classes = _WIDEST if widest else _CLASSES
        self._next = 0
        self._depth = 0

    def run(self) -> list[Branch]:
        branches = self._alternatives()
        if self._next < len(self._pattern):
            raise self._error("there is no group to close", self._next)
        return branches

    def _error(self, message: str, position: int) -> ConstraintError:
        return ConstraintError(message, f"position {position}")

    def _peek(self) -> str:
        return self._pattern[self._next : self._next + 1]

    def _take(self) -> str:
        char = self._peek()
        self._next += 1
        return char

    def _alternatives(self) -> list[Branch]:
        branches = self._sequence()
        while self._peek() == "|":
            self._next += 1
            branches += self._sequence()
        return branches

    def _sequence(self) -> list[Branch]:
        branches = [Branch()]
        is_ended = False
        plain: list[Node] = []
        """Items without alternatives and anchors. Joining them one by one would take quadratic time."""
        while self._peek() not in ("", "|", ")"):
            position = self._next
            ahead = self._pattern[position : position + 3]
            if self._depth == 0 and ahead in ("(?=", "(?!"):
                branches = self._joined(branches, [Branch(seq(*plain))], position)
                return self._joined(branches, self._after_lookahead(position), position)
            found = self._counted(self._item(), position)
            if len(found) == 1 and not (found[0].from_start or found[0].to_end or is_ended):
                plain.append(found[0].node)
                if len(plain) % _CHECKED_EVERY == 0:
                    check_time()
                continue
            branches = self._joined(branches, [Branch(seq(*plain))], position)
            branches = self._joined(branches, found, position)
            is_ended = any(branch.to_end for branch in branches)
            plain = []
        return self._joined(branches, [Branch(seq(*plain))], self._next)

    def _after_lookahead(self, position: int) -> list[Branch]:
        """The rest of the text after a lookahead, which has to agree with it."""
        is_negative = self._pattern[position + 2] == "!"
        self._next = position + 3
        reader = _Parser(self._pattern, widest=is_negative != self._widest)
        reader._next, reader._depth = self._next, 1
        ahead = either(*(_to_end(branch) for branch in reader._alternatives()))
        self._next = reader._next
        if self._take() != ")":
            raise self._error("this group is not closed", position)
        if self._peek() in ("*", "+", "?", "{"):
            raise self._error("a lookahead cannot be repeated", position)
        branches = self._sequence()
        rest = either(*(branch.node if self._is_whole else _to_end(branch) for branch in branches))
        return [Branch(both(rest, Complement(ahead) if is_negative else ahead), to_end=True)]

    def _joined(self, before: list[Branch], after: list[Branch], position: int) -> list[Branch]:
        if len(before) * len(after) > MAX_ALTERNATIVES:
            raise self._error(f"more than {MAX_ALTERNATIVES} alternatives", position)
        return [self._join(one, two, position) for one in before for two in after]

    def _join(self, one: Branch, two: Branch, position: int) -> Branch:
        if two.from_start and one.node != EMPTY:
            raise self._error("^ stands inside the pattern", position)
        if one.to_end and two.node != EMPTY:
            raise self._error("$ stands inside the pattern", position)
        return Branch(seq(one.node, two.node), one.from_start or two.from_start, one.to_end or two.to_end)

    def _item(self) -> list[Branch]:
        position = self._next
        char = self._take()
        if char == "^":
            return [Branch(from_start=True)]
        if char == "$":
            return [Branch(to_end=True)]
        if char == "(":
            return self._group(position)
        if char in "*+?{":
            raise self._error(f"there is nothing for {char} to repeat; escape it if it is meant", position)
        return [Branch(self._one_char(char, position))]

    def _one_char(self, char: str, position: int) -> Node:
        if char == "[":
            return self._set(position)
        if char == ".":
            return _DOT
        if char == "\\":
            escaped = self._escape(position)
            return self._classes[escaped[1]] if len(escaped) > 1 else Literal(escaped)
        self._refuse_surrogate(ord(char), position)
        return Literal(char)

    def _group(self, position: int) -> list[Branch]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"groups are nested more than {MAX_DEPTH} deep", position)
        if self._peek() == "?":
            self._skip_group_name(position)
        branches = self._alternatives()
        if self._take() != ")":
            raise self._error("this group is not closed", position)
        self._depth -= 1
        if any(branch.from_start or branch.to_end for branch in branches):
            return branches
        return [Branch(either(*(branch.node for branch in branches)))]

    def _skip_group_name(self, position: int) -> None:
        match = _GROUP.match(self._pattern, self._next)
        if match is None:
            rest = self._pattern[self._next :]
            what = next(name for start, name in _REFUSED_GROUPS if rest.startswith(start))
            raise self._error(f"{what} is not supported", position)
        self._next = match.end()

    def _counted(self, branches: list[Branch], position: int) -> list[Branch]:
        if self._peek() not in ("*", "+", "?", "{"):
            return branches
        least, most = self._count()
        branch = branches[0]
        if len(branches) > 1 or branch.from_start or branch.to_end:
            raise self._error("an anchor cannot be repeated", position)
        return [replace(branch, node=repeat(branch.node, least, most))]

    def _count(self) -> tuple[int, int | None]:
        position = self._next
        char = self._take()
        least, most = _SIMPLE_COUNTS[char] if char in _SIMPLE_COUNTS else self._braces(position)
        if self._peek() == "?":
            self._next += 1
        elif self._peek() == "+":
            raise self._error("a possessive quantifier is not supported", self._next)
        if self._peek() in ("*", "+", "?"):
            raise self._error("one quantifier already stands before this one", self._next)
        return least, most

    def _braces(self, position: int) -> tuple[int, int | None]:
        match = _COUNT.match(self._pattern, position)
        if match is None:
            raise self._error("{ begins no repetition {m}, {m,} or {m,n}; escape it if it is meant", position)
        self._next = match.end()
        first, comma, second = match.groups()
        if max(len(first), len(second)) > len(str(MAX_REPETITIONS)) or (second and not comma):
            raise self._error(f"at most {MAX_REPETITIONS} repetitions are accepted", position)
        least = int(first)
        most = int(second) if second else None if comma else least
        if max(least, most or 0) > MAX_REPETITIONS:
            raise self._error(f"at most {MAX_REPETITIONS} repetitions are accepted", position)
        if most is not None and most < least:
            raise self._error("the upper limit is below the lower one", position)
        return least, most

    def _escape(self, position: int) -> str:
        r"""The character behind a backslash, or `\x` for class x."""
        match = _CODE.match(self._pattern, self._next)
        if match:
            self._next = match.end()
            code_point = int(next(filter(None, match.groups())), 16)
            self._refuse_surrogate(code_point, position)
            return chr(code_point)
        char = self._take()
        if char in _CLASSES:
            return f"\\{char}"
        if char in _LETTERS or char in _PLAIN_ESCAPES:
            return _LETTERS.get(char, char)
        raise self._error(_why_no_escape(char), position)

    def _refuse_surrogate(self, code_point: int, position: int) -> None:
        if 0xD800 <= code_point <= 0xDFFF:
            raise self._error("this is no character that a constraint may have", position)

    def _set(self, position: int) -> Chars:
        is_negated = self._peek() == "^"
        self._next += is_negated
        classes = _WIDEST if is_negated != self._widest else _CLASSES
        ranges: list[tuple[int, int]] = []
        if self._peek() == "]":
            raise self._error("an empty set, or ] as its first character; escape it", position)
        while self._peek() != "]":
            ranges += self._span(classes, position)
        self._next += 1
        found = inverted(ranges) if is_negated else char_set(ranges)
        if not found.ranges:
            raise self._error("no character is in this set", position)
        return found

    def _span(self, classes: dict[str, Chars], position: int) -> Sequence[tuple[int, int]]:
        start = self._next
        low = self._member(position)
        is_range = self._peek() == "-" and self._pattern[self._next + 1 : self._next + 2] not in ("]", "")
        if len(low) > 1:
            if is_range:
                raise self._error("a class cannot begin a range", start)
            return classes[low[1]].ranges
        if not is_range:
            return [(ord(low), ord(low))]
        self._next += 1
        high = self._member(position)
        if len(high) > 1 or high < low:
            raise self._error("a range must go from one character up to another", start)
        return [(ord(low), ord(high))]

    def _member(self, set_position: int) -> str:
        position = self._next
        char = self._take()
        if not char:
            raise self._error("this set is not closed", set_position)
        if char == "[" and self._peek() in (":", ".", "="):
            raise self._error("POSIX classes are not supported", position)
        if char == "\\":
            return self._escape(position)
        self._refuse_surrogate(ord(char), position)
        return char


def _why_no_escape(char: str) -> str:
    if not char:
        return "there is nothing behind the backslash"
    if char.isdigit() or char == "k":
        return "a backreference is not supported"
    if char in ("b", "B", "A", "Z", "z", "G"):
        return f"the anchor \\{char} is not supported"
    if char in ("p", "P"):
        return f"the Unicode class \\{char} is not supported"
    return "this escape is not supported"


def _to_end(branch: Branch) -> Node:
    return branch.node if branch.to_end else seq(branch.node, _ANY_TEXT)
