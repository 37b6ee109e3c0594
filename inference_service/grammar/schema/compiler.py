"""Schemas into rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from inference_service.grammar.builder import GrammarBuilder
from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.json_text import BOOLEAN, NULL, json_value
from inference_service.grammar.nodes import Literal, Node, Ref, either
from inference_service.grammar.schema.arrays import array_node
from inference_service.grammar.schema.document import Document
from inference_service.grammar.schema.keywords import GROUPS
from inference_service.grammar.schema.numbers import integer_node, number_node
from inference_service.grammar.schema.objects import object_node
from inference_service.grammar.schema.source import Schema, as_schema, inside, literal
from inference_service.grammar.schema.strings import string_node
from inference_service.grammar.schema.unions import branches
from inference_service.grammar.schema.values import type_of, types_in

_SCALARS: Mapping[str, Callable[[GrammarBuilder, Mapping[str, Any], str], Node]] = MappingProxyType(
    {
        "string": string_node,
        "number": number_node,
        "integer": integer_node,
        "boolean": lambda _builder, _schema, _path: BOOLEAN,
        "null": lambda _builder, _schema, _path: NULL,
    }
)
_NUMBER_FORMATS = frozenset({"int64", "double"})
"""Formats of numbers that every number we generate has."""


def schema_rule(builder: GrammarBuilder, schema: object, *, name: str, path: str = "$") -> Ref:
    """Add the rules for the JSON texts that are valid under a schema.

    Members come in the order of `properties`, those that are not required or not. Where a schema says
    nothing of further members or elements, there are none, unless it says nothing of any. Numbers have a
    bounded number of digits.

    Args:
        builder: what the rules are added to.
        schema: as JSON gives it; an object or a boolean.
        name: of the rule, or nearly.
        path: where the schema stands, for errors.

    Raises:
        ConstraintError: the schema is invalid, or cannot be honoured exactly.

    """
    return SchemaCompiler(builder, Document(as_schema(schema, path), path)).run(name)


class SchemaCompiler:
    """Compiles one document."""

    def __init__(self, builder: GrammarBuilder, document: Document) -> None:
        self.builder = builder
        self._document = document
        self._refs: dict[str, Ref] = {}
        self._pending: list[str] = []

    def run(self, name: str) -> Ref:
        root = self._refs["#"] = self.builder.promise(name, self._document.path)
        self.builder.keep(root, self.node(self._document.root, self._document.path))
        while self._pending:
            reference = self._pending.pop()
            target, path = self._document.resolve(reference, reference)
            self.builder.keep(self._refs[reference], self.node(target, path))
        return root

    def node(self, value: object, path: str) -> Node:
        """Describe the texts that are valid under a schema inside the document."""
        schema = as_schema(value, path)
        with self._document.deeper(path):
            reference = self._document.plain_reference(schema, path)
            if reference is not None:
                return self._ref(reference, path)
            return self._flat_node(self._document.flat(schema, path), path)

    def _ref(self, reference: str, path: str) -> Ref:
        if reference not in self._refs:
            _, target_path = self._document.resolve(reference, path)
            name = reference.rpartition("/")[2]
            self._refs[reference] = self.builder.promise(name, target_path)
            self._pending.append(reference)
        return self._refs[reference]

    def _flat_node(self, schema: Schema, path: str) -> Node:
        if schema is False:
            raise ConstraintError("nothing is valid here", path)
        if schema is True or not schema:
            return json_value(self.builder)
        if "anyOf" in schema or "oneOf" in schema:
            options = branches(self._document, schema, path)
            return either(*(self.node(option, place) for option, place in options))
        if "enum" in schema:
            return _enum(schema, path)
        return self._typed(schema, path)

    def _typed(self, schema: Mapping[str, Any], path: str) -> Node:
        types = types_in(schema)
        if "number" in types:
            types.discard("integer")
        if "format" in schema and "string" not in types and schema["format"] not in _NUMBER_FORMATS:
            raise ConstraintError("this format is not supported here", inside(path, "format"))
        return either(*(self._of_type(name, schema, path) for name in sorted(types)))

    def _of_type(self, name: str, schema: Mapping[str, Any], path: str) -> Node:
        if name == "object":
            return object_node(self, schema, path)
        if name == "array":
            return array_node(self, schema, path)
        return _SCALARS[name](self.builder, schema, path)


def _enum(schema: Mapping[str, Any], path: str) -> Node:
    beside = [keyword for group in GROUPS.values() for keyword in sorted(group & schema.keys())]
    if beside:
        raise ConstraintError(f"{beside[0]} beside enum or const is not supported", path)
    types = types_in(schema)
    texts = [literal(value, inside(path, "enum")) for value in schema["enum"] if type_of(value) in types]
    if not texts:
        raise ConstraintError("no value of enum has the type", path)
    return either(*(Literal(text) for text in texts))
