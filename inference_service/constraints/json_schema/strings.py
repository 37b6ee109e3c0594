"""Writes strings as grammar: their length, patterns, formats, and excluded texts."""

from __future__ import annotations

from collections.abc import Iterable

from inference_service.constraints.automata import is_empty, lengths
from inference_service.constraints.json_schema.facts import Counts
from inference_service.constraints.json_text import free_string, string, written
from inference_service.constraints.nodes import (
    ANY_CHAR,
    NOTHING,
    Complement,
    Literal,
    Node,
    both,
    either,
    repeat,
)

AS_GOOD_AS_ENDLESS = 1_000_000


def string_node(languages: Iterable[Node], length: Counts, excluded: Iterable[str]) -> Node:
    """Describe the JSON strings of all these languages, of a length, and none of the excluded texts.

    Raises:
        ConstraintError: it is too large to tell whether there are any.

    """
    language = text_language(languages, length, excluded)
    if language == NOTHING:
        return NOTHING
    return free_string(*_limits(length)) if language is None else string(written(language))


def text_language(languages: Iterable[Node], length: Counts, excluded: Iterable[str] = ()) -> Node | None:
    """The texts of such strings, not yet written as JSON; None where only their length is limited."""
    least, most = _limits(length)
    parts = list(dict.fromkeys(languages))
    texts = [Literal(text) for text in dict.fromkeys(excluded)]
    if not parts and not texts:
        return None
    bounds = [lengths(part) for part in parts]
    is_within = any(
        shortest >= least and (most is None or (longest is not None and longest <= most))
        for shortest, longest in bounds
    )
    if not is_within and (least or most is not None):
        parts.append(repeat(ANY_CHAR, least, most))
    if texts:
        parts.append(Complement(either(*texts)))
    if len(parts) == 1 and isinstance(parts[0], Complement):
        parts.insert(0, repeat(ANY_CHAR, 0))
    language = both(*parts)
    return NOTHING if is_empty(language) else language


def _limits(length: Counts) -> tuple[int, int | None]:
    most = length.most
    return length.least, None if most is None or most >= AS_GOOD_AS_ENDLESS else most
