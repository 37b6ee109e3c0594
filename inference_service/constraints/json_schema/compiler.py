"""Compiles a JSON schema into grammar rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference_service.constraints.errors import (
    MAX_SCHEMAS,
    ConstraintError,
    TookTooLong,
    UnsupportedKeyword,
    check_time,
)
from inference_service.constraints.grammar import GrammarBuilder
from inference_service.constraints.json_schema.arrays import array_node
from inference_service.constraints.json_schema.document import Document, Schema, identified
from inference_service.constraints.json_schema.expansion import Expansion
from inference_service.constraints.json_schema.facts import Facts, Goal, goal_of
from inference_service.constraints.json_schema.numbers import number_node
from inference_service.constraints.json_schema.objects import goal_of_member, object_node
from inference_service.constraints.json_schema.strings import string_node, text_language
from inference_service.constraints.json_text import BOOLEAN, NULL, JsonRules, Marks, dumps
from inference_service.constraints.nodes import NOTHING, Literal, Node, Ref, either, seq, terminal

_VOID_DEPTH = 4
_SCALARS = frozenset({"string", "number", "boolean", "null"})


def schema_node(
    builder: GrammarBuilder,
    schema: Mapping[str, Any] | bool,
    marks: Marks,
    *,
    path: str = "$",
    dropped: frozenset[tuple[str, str]] = frozenset(),
) -> Node:
    """Describe the JSON texts that are valid under a schema; their rules are added to the builder.

    Args:
        builder: what rules are added to, and the paths of keywords that are not enforced.
        schema: as JSON gives it.
        marks: structural characters with white space.
        path: where the schema stands, for errors.
        dropped: keywords that are left out, each with the path of its schema.

    Raises:
        UnsupportedKeyword: a keyword cannot be enforced exactly.
        ConstraintError: the schema is invalid or too large.

    """
    document = Document(dict(schema) if isinstance(schema, Mapping) else schema, path, dropped)
    try:
        node = SchemaCompiler(builder, document, marks).run()
    except RecursionError:
        raise ConstraintError("schemas refer to each other too deep", path) from None
    builder.ignored.update(document.ignored)
    return node


def schema_node_without_unsupported(
    builder: GrammarBuilder, schema: Mapping[str, Any] | bool, marks: Marks, *, path: str
) -> Node:
    """As `schema_node`, but leave out each keyword that cannot be enforced, and name it.

    Raises:
        ConstraintError: the schema is invalid or too large, or nothing satisfies it.

    """
    dropped: frozenset[tuple[str, str]] = frozenset()
    while True:
        trial = GrammarBuilder()
        try:
            trial.build(schema_node(trial, schema, marks, path=path, dropped=dropped))
            break
        except TookTooLong:
            raise
        except ConstraintError as error:
            culprit = _culprit(error, schema, path, dropped)
            if culprit is None or culprit in dropped:
                raise
            dropped |= {culprit}
    return schema_node(builder, schema, marks, path=path, dropped=dropped)


def _culprit(
    error: ConstraintError, schema: Mapping[str, Any] | bool, path: str, dropped: frozenset[tuple[str, str]]
) -> tuple[str, str] | None:
    """The keyword that an error is about, with the path of its schema."""
    if isinstance(error, UnsupportedKeyword):
        return error.schema_path, error.keyword
    # Nothing satisfies the schema at this path: its keywords contradict each other.
    found = (value for value, place, _ in identified(schema, path) if place == error.path)
    keywords = next(found, {})
    order = (name for name in _CONTRADICTING if name in keywords and (error.path, name) not in dropped)
    keyword = next(order, None)
    return None if keyword is None else (error.path, keyword)


_CONTRADICTING = (
    *("enum", "const", "not", "oneOf", "allOf", "anyOf", "if", "pattern", "format", "multipleOf"),
    *("maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength"),
    *("maxItems", "minItems", "maxProperties", "minProperties", "propertyNames"),
)
"""Keywords that are left out, the first that is there, where nothing satisfies all of them."""


class SchemaCompiler:
    """Compiles one document."""

    def __init__(self, builder: GrammarBuilder, document: Document, marks: Marks) -> None:
        self.builder = builder
        self.json = JsonRules(builder, marks)
        self._document = document
        self._expansion = Expansion(self._exclude, self._ignore)
        self._alternatives: dict[Goal, list[Facts]] = {}
        self._nodes: dict[Goal, Node] = {}
        self._pending: list[tuple[Ref, Goal]] = []
        self._void: dict[tuple[Goal, int], bool] = {}

    def _ignore(self, path: str) -> None:
        self._document.ignored.setdefault(path)

    def run(self) -> Node:
        root = self.node_of(goal_of([(self._document.root, True)]))
        while self._pending:
            ref, goal = self._pending.pop()
            self.builder.define(ref, self._node_of_all(goal))
        return root

    def node_of(self, goal: Goal) -> Node:
        """Describe the values that agree with a goal; nodes that contain others are rules."""
        if not goal:
            return self.json.value()
        found = self._nodes.get(goal)
        if found is None:
            alternatives = self._expanded(goal)
            if not alternatives:
                found = NOTHING
            elif all(_is_scalar(facts) for facts in alternatives):
                found = self._node_of_all(goal)
            else:
                found = self.builder.promise(_name(goal), goal[0][0].path)
                self._pending.append((found, goal))
            self._nodes[goal] = found
            if found == NOTHING:
                self.builder.blame(goal[0][0].path)
        return found

    def _expanded(self, goal: Goal) -> list[Facts]:
        found = self._alternatives.get(goal)
        if found is None:
            check_time()
            if len(self._alternatives) >= MAX_SCHEMAS:
                raise ConstraintError(f"it needs more than {MAX_SCHEMAS} combinations of schemas")
            try:
                found = self._alternatives[goal] = self._expansion.alternatives(goal)
            except TookTooLong as error:
                raise TookTooLong(error.message, error.path or goal[0][0].path) from None
        return found

    def _node_of_all(self, goal: Goal) -> Node:
        return either(*(self._node_of_facts(facts, goal) for facts in self._expanded(goal)))

    def _node_of_facts(self, facts: Facts, goal: Goal) -> Node:
        if facts.values is not None:
            return self._constants(facts.values)
        return either(*(self._blaming(name, facts, goal) for name in sorted(facts.types)))

    def _blaming(self, name: str, facts: Facts, goal: Goal) -> Node:
        """Describe the values of one type; errors name a keyword."""
        try:
            return self._node_of_type(name, facts)
        except UnsupportedKeyword:
            raise
        except TookTooLong as error:
            raise TookTooLong(error.message, error.path or _blamed(error, name, goal).path) from None
        except ConstraintError as error:
            raise _blamed(error, name, goal) from None

    def _node_of_type(self, name: str, facts: Facts) -> Node:
        excluded = facts.excluded
        match name:
            case "object" | "array":
                kind = dict if name == "object" else list
                if any(isinstance(value, kind) for value in excluded):
                    raise ConstraintError("objects and arrays cannot be excluded one by one")
                return object_node(self, facts) if name == "object" else array_node(self, facts)
            case "string":
                texts = (value for value in excluded if isinstance(value, str))
                return string_node(facts.languages, facts.length, texts)
            case "number":
                numbers = [v for v in excluded if isinstance(v, int | float) and not isinstance(v, bool)]
                return number_node(facts.number, numbers, self.builder)
            case "boolean":
                left = [v for v in (True, False) if not any(v is other for other in excluded)]
                return BOOLEAN if len(left) == 2 else either(*map(dumps, left)) if left else NOTHING
        return NOTHING if any(value is None for value in excluded) else NULL

    # -- constants --------------------------------------------------------------------------------------

    def _constants(self, values: list[Any]) -> Node:
        scalars = [Literal(self._text(v)) for v in values if not isinstance(v, list | dict)]
        nested = [self.constant(value) for value in values if isinstance(value, list | dict)]
        return either(*([terminal(either(*scalars))] if scalars else []), *nested)

    def constant(self, value: Any) -> Node:
        """The text of one value."""
        marks = self.json.marks
        match value:
            case dict():
                parts = [
                    seq(terminal(seq(self._text(name), marks.colon)), self.constant(item))
                    for name, item in value.items()
                ]
                return seq(marks.begin_object, *self._separated(parts), marks.end_object)
            case list():
                items = [self.constant(item) for item in value]
                return seq(marks.begin_array, *self._separated(items), marks.end_array)
        return Literal(self._text(value))

    def _separated(self, parts: list[Node]) -> list[Node]:
        return [
            node
            for index, part in enumerate(parts)
            for node in ((self.json.marks.comma,) if index else ()) + (part,)
        ]

    @staticmethod
    def _text(value: object) -> str:
        try:
            return dumps(value)
        except ValueError:
            raise ConstraintError("a value has no JSON text: half a surrogate pair, or no number") from None

    # -- what writers of objects and arrays ask ---------------------------------------------------------

    def finite_values(self, goal: Goal) -> list[Any] | None:
        """All values that agree with a goal, if an enumeration says which; None otherwise."""
        found: list[Any] = []
        for facts in self._expanded(goal) if goal else [Facts()]:
            if facts.values is not None:
                found += facts.values
            elif facts.types <= {"boolean", "null"}:
                found += [value for name, values in _FEW.items() if name in facts.types for value in values]
            else:
                return None
        return found

    def texts_of(self, goal: Goal) -> Node | None:
        """The language of the strings that agree with a goal; None for any."""
        options: list[Node] = []
        for facts in self._expanded(goal):
            if facts.values is not None:
                options += [Literal(value) for value in facts.values if isinstance(value, str)]
            elif "string" in facts.types:
                texts = [value for value in facts.excluded if isinstance(value, str)]
                language = text_language(facts.languages, facts.length, texts)
                if language is None:
                    language = text_language([_any_text()], facts.length)
                if language is None or (language == _any_text()):
                    return None
                options.append(language)
        return either(*options) if options else NOTHING

    def is_void(self, goal: Goal, depth: int = _VOID_DEPTH) -> bool:
        """Whether surely nothing agrees with a goal; looks so many levels into objects."""
        key = (goal, depth)
        if key not in self._void:
            self._void[key] = False
            self._void[key] = bool(goal) and all(self._is_void(f, depth) for f in self._expanded(goal))
        return self._void[key]

    def _is_void(self, facts: Facts, depth: int) -> bool:
        if facts.values is not None:
            return not facts.values
        return all(self._is_void_type(name, facts, depth) for name in facts.types)

    def _is_void_type(self, name: str, facts: Facts, depth: int) -> bool:
        match name:
            case "object":
                return depth > 0 and any(
                    self.is_void(goal_of_member(facts, member), depth - 1) for member in facts.required
                )
            case "string":
                return len(facts.languages) > 1 and string_node(facts.languages, facts.length, ()) == NOTHING
        return False

    def _exclude(self, one: Schema, other: Schema) -> bool:
        try:
            return self.is_void(goal_of([(one, True), (other, True)]))
        except TookTooLong:
            raise
        except ConstraintError:
            return False


_FEW: dict[str, tuple[bool | None, ...]] = {"boolean": (True, False), "null": (None,)}


def _any_text() -> Node:
    from inference_service.constraints.json_text import ANY_TEXT

    return ANY_TEXT


def _is_scalar(facts: Facts) -> bool:
    if facts.values is not None:
        return not any(isinstance(value, list | dict) for value in facts.values)
    return facts.types <= _SCALARS


def _name(goal: Goal) -> str:
    """A name for a rule: the last word of the schema's path."""
    return goal[0][0].path.replace('"', "").replace("]", "").replace("[", ".").rpartition(".")[2]


_BLAMED = {
    "object": (
        *("patternProperties", "propertyNames", "minProperties", "maxProperties"),
        *("additionalProperties", "properties", "enum", "const"),
    ),
    "array": ("uniqueItems", "contains", "prefixItems", "items", "enum", "const"),
    "string": ("pattern", "format", "maxLength", "minLength", "enum", "const"),
    "number": (
        *("multipleOf", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "format"),
        *("enum", "const", "type"),
    ),
}


def _blamed(error: ConstraintError, type_name: str, goal: Goal) -> ConstraintError:
    """The error, with the keyword that it is most likely about."""
    for keyword in _BLAMED.get(type_name, ()):
        for schema, _ in goal:
            found = _with_keyword(schema, keyword, 4)
            if found is not None:
                return found.unsupported(keyword, str(error))
    return ConstraintError(error.message, error.path or goal[0][0].path)


def _with_keyword(schema: Schema, keyword: str, depth: int) -> Schema | None:
    """The schema itself, or a branch of it, that has a keyword."""
    keywords = schema.keywords
    if keyword in keywords and keyword in (schema.value if isinstance(schema.value, dict) else {}):
        return schema
    if depth == 0 or not isinstance(schema.value, dict):
        return None
    branches = [schema.reference] if "$ref" in keywords else []
    for name in ("allOf", "anyOf", "oneOf"):
        if name in keywords and name in schema.value:
            branches += [schema.child(name, index) for index in range(len(keywords[name]))]
    branches += [schema.child(name) for name in ("not", "if", "then", "else") if name in keywords]
    return next((f for branch in branches if (f := _with_keyword(branch, keyword, depth - 1))), None)
