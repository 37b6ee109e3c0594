"""Compiles a constraint of any kind into a grammar."""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

from inference_service.constraints.automata import is_empty
from inference_service.constraints.errors import (
    MAX_SOURCE_BYTES,
    ConstraintError,
    collections_paused,
    time_limit,
)
from inference_service.constraints.grammar import Grammar, GrammarBuilder, lexed, make_grammar
from inference_service.constraints.json_schema.compiler import schema_node
from inference_service.constraints.json_schema.document import read_schema
from inference_service.constraints.json_text import JsonRules, Whitespace, marks
from inference_service.constraints.nodes import terminal
from inference_service.constraints.notations.gbnf import parse_gbnf
from inference_service.constraints.regex import whole_text

_CACHED = 256
"""Compiled constraints that are kept; the least recently used one goes first."""


class ConstraintKind(Enum):
    """The notation of a constraint."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"


def compile_constraint(
    kind: ConstraintKind, source: str = "", whitespace: Whitespace = Whitespace.COMPACT
) -> Grammar:
    """Compile a constraint.

    Cached and thread-safe. Takes up to two seconds of processor time.

    Args:
        kind: what the source is.
        source: the caller's text, at most 524,288 bytes; ignored for JSON_OBJECT.
        whitespace: what may stand between the parts of a JSON text.

    Raises:
        ConstraintError: it is invalid, too large, or cannot be enforced exactly.

    """
    if kind is ConstraintKind.JSON_OBJECT:
        return _compile(kind, "", whitespace)
    try:
        size = len(source.encode())
    except UnicodeEncodeError:
        raise ConstraintError("it has half a surrogate pair, which is no text") from None
    if size > MAX_SOURCE_BYTES:
        raise ConstraintError(f"it has {size} bytes; at most {MAX_SOURCE_BYTES} are accepted")
    return _compile(kind, source, whitespace)


@lru_cache(maxsize=_CACHED)
def _compile(kind: ConstraintKind, source: str, whitespace: Whitespace) -> Grammar:
    with collections_paused(), time_limit():
        return _compiled(kind, source, whitespace)


def _compiled(kind: ConstraintKind, source: str, whitespace: Whitespace) -> Grammar:
    builder = GrammarBuilder()
    try:
        match kind:
            case ConstraintKind.JSON_OBJECT:
                return builder.build(JsonRules(builder, marks(whitespace)).object())
            case ConstraintKind.JSON_SCHEMA:
                return builder.build(schema_node(builder, read_schema(source), marks(whitespace)))
            case ConstraintKind.REGEX:
                language = whole_text(source)
                if is_empty(language):
                    raise ConstraintError("nothing satisfies it")
                return builder.build(terminal(language))
        parsed = parse_gbnf(source)
        return lexed(make_grammar(parsed.rules, parsed.places))
    except RecursionError:
        raise ConstraintError("it is nested too deep") from None
