"""Objects: known members in their order, then others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.json_text import COLON, COMMA, json_string, separated
from inference_service.grammar.nodes import EMPTY, Node, either, maybe, repeat, seq
from inference_service.grammar.regex import regex_string
from inference_service.grammar.schema.keys import key_except
from inference_service.grammar.schema.source import Schema, inside, literal

if TYPE_CHECKING:
    from inference_service.grammar.schema.compiler import SchemaCompiler


@dataclass(frozen=True, slots=True)
class _Member:
    node: Node
    is_required: bool


@dataclass(frozen=True, slots=True)
class _Others:
    """Members that are not known by name."""

    node: Node
    most: int | None

    def after(self) -> Node:
        """Any number of them, behind another member."""
        return repeat(seq(COMMA, self.node), 0, self.most)

    def first(self) -> Node | None:
        """At least one of them, and nothing before."""
        return None if self.most == 0 else separated([self.node], 1, self.most)


def object_node(compiler: SchemaCompiler, schema: Mapping[str, Any], path: str) -> Node:
    """Describe objects whose members come in the order of `properties`, then of `required`.

    Raises:
        ConstraintError: there are none, or a keyword cannot be kept.

    """
    members = _members(compiler, schema, path)
    others = _others(compiler, schema, path)
    required = sum(member.is_required for member in members)
    others = _within_most(schema, len(members), others, path)
    content = _content(compiler, members, others, path)
    least = int(schema.get("minProperties", 0))
    if least > max(required, 1):
        raise ConstraintError("minProperties is supported up to the number of required members, or 1", path)
    if content is None and (least or required):
        raise ConstraintError("no object has so many members", path)
    if content is None:
        return seq("{}")
    return seq("{", content if least or required else maybe(content), "}")


def _members(compiler: SchemaCompiler, schema: Mapping[str, Any], path: str) -> list[_Member]:
    properties: dict[str, Schema] = schema.get("properties", {})
    required = dict.fromkeys(schema.get("required", ()))
    extra: Schema = schema.get("additionalProperties", True)
    known = {**properties, **{name: extra for name in required if name not in properties}}
    members = []
    for name, value in known.items():
        place = inside(inside(path, "properties"), name)
        if value is False and name not in required:
            continue
        if value is False:
            raise ConstraintError("this member is required and cannot be", place)
        text = literal(name, place)
        node = seq(text, COLON, compiler.node(value, place))
        members.append(_Member(node, name in required))
    return members


def _others(compiler: SchemaCompiler, schema: Mapping[str, Any], path: str) -> _Others:
    known = [*schema.get("properties", {}), *schema.get("required", ())]
    patterns: dict[str, Schema] = schema.get("patternProperties", {})
    extra: Schema = schema.get("additionalProperties", not known and not patterns)
    if (patterns or "propertyNames" in schema) and known:
        raise ConstraintError(
            "patternProperties and propertyNames beside named members are not supported", path
        )
    if patterns:
        return _patterned(compiler, schema, path)
    if extra is False:
        return _Others(EMPTY, 0)
    value = compiler.node(extra, inside(path, "additionalProperties"))
    if "propertyNames" in schema:
        key = _named(compiler, schema["propertyNames"], inside(path, "propertyNames"))
    else:
        key = key_except(known) if known else json_string(compiler.builder)
    return _Others(compiler.builder.rule("member", seq(key, COLON, value), path), None)


def _patterned(compiler: SchemaCompiler, schema: Mapping[str, Any], path: str) -> _Others:
    patterns: dict[str, Schema] = schema["patternProperties"]
    is_open = schema.get("additionalProperties", False) is not False
    if len(patterns) != 1 or is_open or "propertyNames" in schema:
        raise ConstraintError("patternProperties is supported with one pattern and nothing beside it", path)
    [(pattern, value)] = patterns.items()
    place = inside(inside(path, "patternProperties"), pattern)
    if value is False:
        return _Others(EMPTY, 0)
    try:
        key = regex_string(pattern)
    except ConstraintError as error:
        raise ConstraintError(f"{error.message} ({error.path})", place) from None
    member = seq(key, COLON, compiler.node(value, place))
    return _Others(compiler.builder.rule("member", member, place), None)


def _named(compiler: SchemaCompiler, schema: Schema, path: str) -> Node:
    if schema is True:
        return json_string(compiler.builder)
    if schema is False or schema.get("type", "string") != "string":
        raise ConstraintError("no name is valid here", path)
    return compiler.node({"type": "string", **schema}, path)


def _within_most(schema: Mapping[str, Any], known: int, others: _Others, path: str) -> _Others:
    if "maxProperties" not in schema:
        return others
    room = int(schema["maxProperties"]) - known
    if room < 0:
        raise ConstraintError("maxProperties below the number of named members is not supported", path)
    return _Others(others.node, room if others.most is None else min(others.most, room))


def _content(compiler: SchemaCompiler, members: list[_Member], others: _Others, path: str) -> Node | None:
    """What stands between the braces if there is at least one member; None if there can be none.

    Built from the end: `here` begins with a member, `rest` is what may follow one. The number of rules
    grows with the number of members, not with that of their subsets.
    """
    here = others.first()
    rest = others.after()
    for index in range(len(members) - 1, -1, -1):
        member = members[index]
        present = seq(member.node, rest)
        here = present if member.is_required or here is None else either(present, here)
        if index and not members[index - 1].is_required:
            here = compiler.builder.rule("members", here, path)
        follows = seq(COMMA, here)
        rest = follows if any(m.is_required for m in members[index:]) else maybe(follows)
    return here
