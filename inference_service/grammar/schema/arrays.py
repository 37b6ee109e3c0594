"""Arrays: elements with a schema of their own, then others alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.json_text import COMMA, separated
from inference_service.grammar.limits import MOST_DEPTH
from inference_service.grammar.nodes import EMPTY, Node, maybe, repeat, seq
from inference_service.grammar.schema.source import Schema, inside

if TYPE_CHECKING:
    from inference_service.grammar.schema.compiler import SchemaCompiler


def array_node(compiler: SchemaCompiler, schema: Mapping[str, Any], path: str) -> Node:
    """Describe arrays.

    Raises:
        ConstraintError: there are none, or a keyword cannot be kept.

    """
    least = int(schema.get("minItems", 0))
    most = _most(schema)
    if most is not None and most < least:
        raise ConstraintError("no array has so many elements", path)
    if schema.get("uniqueItems") and (most is None or most > 1):
        raise ConstraintError("uniqueItems is not supported", inside(path, "uniqueItems"))
    if most == 0:
        return seq("[]")
    prefix: list[Schema] = schema.get("prefixItems", [])[:most]
    if len(prefix) > MOST_DEPTH:
        raise ConstraintError(f"prefixItems has more than {MOST_DEPTH} elements", path)
    place = inside(path, "prefixItems")
    known = [compiler.node(item, f"{place}[{index}]") for index, item in enumerate(prefix)]
    if most is not None and most <= len(known):
        return seq("[", _listed(known, EMPTY, least), "]")
    item = compiler.builder.rule(
        "element", compiler.node(schema.get("items", True), inside(path, "items")), path
    )
    if not known:
        some = separated([item], max(least, 1), most)
        return seq("[", some if least else maybe(some), "]")
    more = None if most is None else most - len(known)
    rest = repeat(seq(COMMA, item), max(0, least - len(known)), more)
    return seq("[", _listed(known, rest, least), "]")


def _most(schema: Mapping[str, Any]) -> int | None:
    """Most elements: as stated, and no more than are described, unless more are demanded or none is."""
    stated = schema.get("maxItems")
    described = len(schema.get("prefixItems", ()))
    if schema.get("items") is False or ("items" not in schema and schema.get("minItems", 0) <= described > 0):
        return described if stated is None else min(described, int(stated))
    return None if stated is None else int(stated)


def _listed(known: list[Node], rest: Node, least: int) -> Node:
    """Elements one after the other; from `least` on, any of them may be the last."""
    for index in range(len(known) - 1, -1, -1):
        here = seq(known[index], rest) if index == 0 else seq(COMMA, known[index], rest)
        rest = here if index < least else maybe(here)
    return rest
