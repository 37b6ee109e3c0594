"""Builds the grammars of tool calls, for requests whose answer must be calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from inference_service.constraints.errors import ConstraintError, collections_paused, seconds_left, time_limit
from inference_service.constraints.grammar import Grammar, GrammarBuilder
from inference_service.constraints.json_schema.compiler import schema_node, schema_node_without_unsupported
from inference_service.constraints.json_text import JsonRules, Whitespace, marks
from inference_service.constraints.nodes import Literal, Node, Terminal, either, repeat, seq


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool that an answer may call."""

    opening: str
    """The text before the arguments of a call, with the tool's name."""
    parameters: Mapping[str, Any] | None
    """JSON schema of the arguments, an object; None: there are none."""
    strict: bool
    """Whether a keyword that cannot be enforced is an error. Otherwise it is left out, and named."""
    path: str
    """The path of the schema in the request."""


@dataclass(frozen=True, slots=True)
class CallList:
    """The order and separation of calls."""

    closing: str
    """The text after the arguments of a call."""
    separator: str
    max_calls: int


def calls_grammar(
    tools: Sequence[CallableTool],
    calls: CallList,
    *,
    answer: Mapping[str, Any] | bool | None = None,
    whitespace: Whitespace = Whitespace.COMPACT,
) -> Grammar:
    """Describe answers of one call or more, or of the JSON that the caller asks for instead.

    Cached and thread-safe. Takes up to seconds of processor time.

    Args:
        tools: of distinct names.
        calls: how they follow each other.
        answer: the JSON schema of an answer without calls; None: there has to be a call.
        whitespace: what may stand between the parts of a JSON text.

    Raises:
        ConstraintError: a strict tool's schema or the answer's is invalid or cannot be enforced exactly, or
            all of it is too large. Its path begins with the tool's, or with `constraint`.

    """
    try:
        # Text, because what is cached has to be hashable.
        texts = [
            json.dumps([[t.opening, t.parameters, t.strict, t.path] for t in tools]),
            json.dumps(answer),
        ]
    except RecursionError:
        raise ConstraintError("they are nested too deeply", "chat.tools") from None
    with collections_paused(), time_limit():
        return _compile(texts[0], texts[1], calls, whitespace)


@lru_cache(maxsize=256)
def _compile(tools: str, answer: str, calls: CallList, whitespace: Whitespace) -> Grammar:
    builder = GrammarBuilder()
    json_rules = JsonRules(builder, marks(whitespace))
    options = [
        seq(*_lexemes(tool.opening), _arguments(json_rules, tool))
        for tool in (CallableTool(*fields) for fields in json.loads(tools))
    ]
    call = builder.rule("call", seq(either(*options), calls.closing))
    root = seq(call, repeat(seq(calls.separator, call), 0, calls.max_calls - 1))
    schema = json.loads(answer)
    if schema is not None:
        root = either(root, schema_node(builder, schema, json_rules.marks, path="constraint.json_schema"))
    return builder.build(root)


def _arguments(json_rules: JsonRules, tool: CallableTool) -> Node:
    builder = json_rules.builder
    if tool.parameters is None:
        return seq("{}")
    schema = {**tool.parameters, "type": "object"}
    if tool.parameters.get("type", "object") != "object":
        if tool.strict:
            raise ConstraintError("the arguments of a function are an object", f"{tool.path}.type")
        builder.ignored.setdefault(f"{tool.path}.type")
    try:
        if tool.strict:
            return schema_node(builder, schema, json_rules.marks, path=tool.path)
        # Half of the time that is left, so that one schema does not take it from those behind it.
        with time_limit(seconds_left() / 2):
            return schema_node_without_unsupported(builder, schema, json_rules.marks, path=tool.path)
    except ConstraintError:
        if tool.strict:
            raise
        # Too large, or nothing satisfies it: there is no single keyword to leave out.
        builder.ignored.setdefault(tool.path)
        return json_rules.object()


def _lexemes(opening: str) -> list[Node]:
    """The text before a call's arguments, divided as JSON is.

    An answer of JSON may begin with the same characters: the lexemes of the two have to be comparable.
    """
    return [Terminal(Literal(found.group())) for found in _LEXEME.finditer(opening)]


_LEXEME = re.compile(r'"(?:[^"\\]|\\.)*"(?:\s*:\s*)?|[{}\[\],:]\s*|[^"{}\[\],:]+|"', re.DOTALL)
