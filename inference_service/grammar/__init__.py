"""Constraints on a generation's text, compiled to one dialect of grammar that every engine takes.

Pure: text in, text out; no engine, no gRPC. The dialect is GBNF as llama.cpp reads it, in the subset that
xgrammar's EBNF shares (see `printer.py`). A constraint that cannot be honoured exactly is refused with a
`ConstraintError(message, path)`; nothing is ever left out of one silently.

One constraint::

    compile_constraint(kind: ConstraintKind, source: str) -> str

`kind` is JSON_OBJECT (source ignored), JSON_SCHEMA (JSON text), REGEX or GRAMMAR (GBNF whose rule is
`root`). Cached and thread-safe; bounded in time, but not short enough for an event loop.

Several put together, as tool calls need it::

    builder = GrammarBuilder()
    arguments = schema_rule(builder, schema, name="get-weather", path="$.tools[0].function.parameters")
    call = seq('{"name": "', "get_weather", '", "parameters": ', arguments, "}")
    text = builder.build(either(call, other_call))

`schema_rule(builder, schema, *, name, path="$") -> Ref` takes a schema as parsed JSON (a dict or a bool).
Nodes are made with `seq(*items)`, `either(*options)`, `maybe(item)`, `repeat(item, least, most=None)`, and
`chars("az", "_")`; a `str` among their arguments is itself, literally. `json_text(value)` is the compact
JSON text of a value. `json_object(builder)` and `json_value(builder)` are any of those. `builder.rule(name,
node)` names a part that is used more than once. `builder.build(root) -> str` checks all of it and may raise
ConstraintError too.

What a grammar generates::

    shortest_sentence(grammar: str) -> str
"""

from __future__ import annotations

from inference_service.grammar.builder import GrammarBuilder
from inference_service.grammar.compile import ConstraintKind, compile_constraint
from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.json_text import dumps as json_text
from inference_service.grammar.json_text import json_object, json_value
from inference_service.grammar.nodes import Node, Ref, chars, either, maybe, repeat, seq
from inference_service.grammar.schema import schema_rule
from inference_service.grammar.sentence import shortest_sentence

__all__ = [
    "ConstraintError",
    "ConstraintKind",
    "GrammarBuilder",
    "Node",
    "Ref",
    "chars",
    "compile_constraint",
    "either",
    "json_object",
    "json_text",
    "json_value",
    "maybe",
    "repeat",
    "schema_rule",
    "seq",
    "shortest_sentence",
]
