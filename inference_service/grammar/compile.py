"""A constraint of any kind, compiled to a grammar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from types import MappingProxyType

from inference_service.grammar.builder import GrammarBuilder
from inference_service.grammar.check import check_rules
from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.json_text import json_object
from inference_service.grammar.limits import MOST_SOURCE_BYTES
from inference_service.grammar.lowering import lower
from inference_service.grammar.parser import parse_grammar
from inference_service.grammar.printer import print_rules
from inference_service.grammar.regex import regex_node
from inference_service.grammar.schema import read_schema, schema_rule

CACHED = 256
"""Compiled constraints that are kept, the least recently used one going first."""


class ConstraintKind(Enum):
    """What a constraint is written in."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"


def compile_constraint(kind: ConstraintKind, source: str = "") -> str:
    """Compile a constraint to GBNF whose rule `root` describes the whole output.

    Args:
        kind: what the source is.
        source: the caller's text, at most 65,536 bytes; ignored for JSON_OBJECT.

    Raises:
        ConstraintError: it is invalid, too large, or cannot be honoured exactly.

    """
    if kind is ConstraintKind.JSON_OBJECT:
        return _compile(kind, "")
    try:
        size = len(source.encode())
    except UnicodeEncodeError:
        raise ConstraintError("it has half a surrogate pair, which is no text") from None
    if size > MOST_SOURCE_BYTES:
        raise ConstraintError(f"it has {size} bytes; at most {MOST_SOURCE_BYTES} are accepted")
    return _compile(kind, source)


@lru_cache(maxsize=CACHED)
def _compile(kind: ConstraintKind, source: str) -> str:
    try:
        return _COMPILERS[kind](source)
    except RecursionError:
        raise ConstraintError("it is nested too deep") from None


def _object(_source: str) -> str:
    builder = GrammarBuilder()
    return builder.build(json_object(builder))


def _schema(source: str) -> str:
    builder = GrammarBuilder()
    return builder.build(schema_rule(builder, read_schema(source), name="document"))


def _regex(source: str) -> str:
    return GrammarBuilder().build(regex_node(source))


def _grammar(source: str) -> str:
    parsed = parse_grammar(source)
    check_rules(parsed.rules, parsed.places)
    rules = lower(parsed.rules)
    check_rules(rules, parsed.places)
    return print_rules(rules)


_COMPILERS: Mapping[ConstraintKind, Callable[[str], str]] = MappingProxyType(
    {
        ConstraintKind.JSON_OBJECT: _object,
        ConstraintKind.JSON_SCHEMA: _schema,
        ConstraintKind.REGEX: _regex,
        ConstraintKind.GRAMMAR: _grammar,
    }
)
