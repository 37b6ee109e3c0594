"""Regular expressions as grammars: of a whole text, and of a JSON string."""

from __future__ import annotations

from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.json_text import RAW_CHARS
from inference_service.grammar.nodes import (
    ANY_CHAR,
    EMPTY,
    Chars,
    Choice,
    Literal,
    Node,
    Repeat,
    Sequence,
    either,
    overlap,
    repeat,
    seq,
)
from inference_service.grammar.regex_parser import Branch, lengths, parse_regex

_ESCAPES = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\", 0x7F: "\\u007f"}


def regex_node(pattern: str) -> Node:
    """Describe the texts that match a pattern from beginning to end.

    Raises:
        ConstraintError: the pattern is invalid or not supported; its path is the position.

    """
    return either(*(branch.node for branch in parse_regex(pattern)))


def regex_string(pattern: str, least: int = 0, most: int | None = None) -> Node:
    """Describe the JSON strings in which a pattern is found, anywhere unless it is anchored.

    Args:
        pattern: searched for, as JSON Schema's `pattern` is.
        least: characters that the string has at least.
        most: characters that it has at most; None for no limit.

    Raises:
        ConstraintError: the pattern is invalid or not supported, or its length cannot be kept.

    """
    return seq('"', either(*(_in_json(_fitted(b, least, most)) for b in parse_regex(pattern))), '"')


def _fitted(branch: Branch, least: int, most: int | None) -> Node:
    """The branch with whatever may stand around it, of a length within the limits."""
    if branch.from_start and branch.to_end:
        return _fit(branch.node, least, most)
    shortest, longest = lengths(branch.node)
    missing = max(0, least - shortest)
    if most is None:
        room = None
    elif longest is not None and longest <= most and missing <= most - longest:
        room = most - longest
    else:
        raise ConstraintError("maxLength cannot be kept with this pattern; anchor it with ^ and $")
    if branch.from_start:
        return seq(branch.node, repeat(ANY_CHAR, missing, room))
    if branch.to_end:
        return seq(repeat(ANY_CHAR, missing, room), branch.node)
    before = None if room is None else (room - missing) // 2
    after = None if room is None or before is None else room - before
    return seq(repeat(ANY_CHAR, 0, before), branch.node, repeat(ANY_CHAR, missing, after))


def _fit(node: Node, least: int, most: int | None) -> Node:
    """The same texts, of these lengths only; possible where one part alone sets the length."""
    shortest, longest = lengths(node)
    if shortest >= least and (most is None or (longest is not None and longest <= most)):
        return node
    parts: list[Node] = list(node.items) if isinstance(node, Sequence) else [node]
    elastic = [i for i, part in enumerate(parts) if lengths(part)[0] != lengths(part)[1]]
    part: Node = parts[elastic[0]] if len(elastic) == 1 else EMPTY
    if not isinstance(part, Repeat) or lengths(part.item)[0] != lengths(part.item)[1]:
        raise ConstraintError("minLength and maxLength cannot be kept exactly with this pattern")
    unit = lengths(part.item)[0]
    fixed = shortest - unit * part.least
    fewest = max(part.least, -(-(least - fixed) // unit))
    limits = [part.most, None if most is None else (most - fixed) // unit]
    upper = min((limit for limit in limits if limit is not None), default=None)
    if upper is not None and upper < fewest:
        raise ConstraintError("no text has both this pattern and this length")
    parts[elastic[0]] = repeat(part.item, fewest, upper)
    return seq(*parts)


def _in_json(node: Node) -> Node:
    """The same texts as they stand between the quotes of a JSON string."""
    if isinstance(node, Literal):
        return seq(*(_in_json(Chars(((ord(char), ord(char)),))) for char in node.text))
    if isinstance(node, Chars):
        return _chars_in_json(node)
    if isinstance(node, Sequence):
        return seq(*(_in_json(item) for item in node.items))
    if isinstance(node, Choice):
        return either(*(_in_json(option) for option in node.options))
    if isinstance(node, Repeat):
        return repeat(_in_json(node.item), node.least, node.most)
    return node


def _chars_in_json(node: Chars) -> Node:
    """One character, escaped where it must be."""
    raw = overlap(node, RAW_CHARS)
    escaped = (text for code, text in _ESCAPES.items() if overlap(node, Chars(((code, code),))).ranges)
    return either(*([_plain(raw)] if raw.ranges else []), *escaped)


def _plain(raw: Chars) -> Node:
    (low, high), *more = raw.ranges
    return raw if more or low != high else Literal(chr(low))
