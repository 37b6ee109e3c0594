"""Writes arrays as grammar: first the elements with a position of their own, then the further ones."""

from __future__ import annotations

from itertools import combinations, permutations
from typing import TYPE_CHECKING

from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.json_schema.document import Schema, distinct
from inference_service.constraints.json_schema.facts import Atom, Contained, Facts, Goal, goal_of
from inference_service.constraints.nodes import EMPTY, NOTHING, Node, either, maybe, repeat, seq

if TYPE_CHECKING:
    from inference_service.constraints.json_schema.compiler import SchemaCompiler

MAX_UNIQUE = 6
MAX_CONTAINED = 16
MAX_COUNTED = 64
MAX_PREFIX = 1_000
_RULE_EVERY = 8
"""Elements from one rule to the next: engines limit how deep groups are nested."""


def array_node(compiler: SchemaCompiler, facts: Facts) -> Node:
    """Describe arrays.

    Raises:
        ConstraintError: they cannot be described exactly.

    """
    least, most = facts.element_count.least, facts.element_count.most
    if facts.unique is not None and (most is None or most > 1):
        return _unique(compiler, facts, facts.unique)
    contained = [item for item in facts.contained if item.least > 0 or item.most is not None]
    if contained:
        return _containing(compiler, facts, contained)
    prefix = max((len(elements.prefix) for elements in facts.elements), default=0)
    prefix = prefix if most is None else min(prefix, most)
    if prefix > MAX_PREFIX:
        raise ConstraintError(f"more than {MAX_PREFIX} elements by position are not supported")
    known = [compiler.node_of(goal_at(facts, index)) for index in range(prefix)]
    rest = NOTHING if most is not None and most <= prefix else compiler.node_of(goal_at(facts, None))
    marks = compiler.json.marks
    if NOTHING in known:
        # Nothing can stand there, so the array ends before.
        known, rest = known[: known.index(NOTHING)], NOTHING
    if rest == NOTHING and least > len(known):
        return NOTHING
    if not known:
        return (
            seq(marks.begin_array, marks.end_array)
            if rest == NOTHING
            else compiler.json.elements(rest, least, most)
        )
    tail = _rest(compiler, rest, max(0, least - len(known)), None if most is None else most - len(known))
    for index in range(len(known) - 1, -1, -1):
        here = seq(marks.comma if index else EMPTY, known[index], tail)
        tail = here if index < least else maybe(here)
        if index and index % _RULE_EVERY == 0:
            tail = compiler.builder.rule("elements", tail)
    return seq(marks.begin_array, tail, marks.end_array)


def goal_at(facts: Facts, index: int | None) -> Goal:
    """The schemas of the element at an index; None: those of the elements behind every prefix."""
    atoms: list[Atom] = []
    for elements in facts.elements:
        if index is not None and index < len(elements.prefix):
            atoms.append(elements.prefix[index])
        elif elements.rest is not None:
            atoms.append(elements.rest)
    return goal_of(atoms)


def _rest(compiler: SchemaCompiler, item: Node, least: int, most: int | None) -> Node:
    """Elements behind others."""
    if item == NOTHING:
        return EMPTY
    return repeat(seq(compiler.json.marks.comma, item), least, most)


def _unique(compiler: SchemaCompiler, facts: Facts, schema: Schema) -> Node:
    """Arrays whose elements all differ: one alternative for each order of few values."""
    values = compiler.finite_values(goal_at(facts, None))
    has_prefix = any(elements.prefix for elements in facts.elements)
    if values is None or len(values) > MAX_UNIQUE or facts.contained or has_prefix:
        raise schema.unsupported("uniqueItems", "elements that differ can only be enforced for few values")
    values = distinct(values)
    most = len(values) if facts.element_count.most is None else min(facts.element_count.most, len(values))
    marks = compiler.json.marks
    options = []
    for count in range(facts.element_count.least, most + 1):
        for chosen in combinations(values, count):
            for order in permutations(chosen):
                parts: list[Node] = []
                for value in order:
                    parts += [*([marks.comma] if parts else []), compiler.constant(value)]
                options.append(seq(*parts))
    return seq(marks.begin_array, either(*options), marks.end_array) if options else NOTHING


def _containing(compiler: SchemaCompiler, facts: Facts, contained: list[Contained]) -> Node:
    """Arrays with enough of certain elements: a rule for each count of them so far."""
    if len(contained) > 1 or any(elements.prefix for elements in facts.elements):
        raise ConstraintError("several contains, or contains beside a prefix, are not supported")
    [wanted] = contained
    least, most = facts.element_count.least, facts.element_count.most
    if wanted.least > MAX_CONTAINED or (wanted.most or 0) > MAX_CONTAINED:
        raise ConstraintError(f"minContains and maxContains above {MAX_CONTAINED} are not supported")
    counted = max(least, most or 0)
    if counted > MAX_COUNTED:
        raise ConstraintError(f"contains beside counts above {MAX_COUNTED} is not supported")
    return _ContainingWriter(compiler, facts, wanted, counted).node()


class _ContainingWriter:
    def __init__(self, compiler: SchemaCompiler, facts: Facts, wanted: Contained, counted: int) -> None:
        self._builder = compiler.builder
        self._marks = compiler.json.marks
        self._least, self._most = facts.element_count.least, facts.element_count.most
        self._wanted = wanted
        self._counted = counted
        goal = goal_at(facts, None)
        schema, holds = wanted.atom
        self._match = compiler.node_of(goal_of([*goal, wanted.atom]))
        # Without an upper limit it does no harm that an element which matches is not counted.
        other = goal if wanted.most is None else goal_of([*goal, (schema, not holds)])
        self._other = compiler.node_of(other)
        self._rules: dict[tuple[int, int], Node] = {}

    def node(self) -> Node:
        return seq(self._marks.begin_array, self._tail(0, 0), self._marks.end_array)

    def _tail(self, count: int, matched: int) -> Node:
        """The rest of an array after so many elements and so many wanted ones; both up to their caps."""
        key = (count, matched)
        if key not in self._rules:
            ref = self._builder.promise("elements")
            self._rules[key] = ref
            self._builder.define(ref, self._make_tail(count, matched))
        return self._rules[key]

    def _make_tail(self, count: int, matched: int) -> Node:
        options: list[Node] = []
        if count >= self._least and matched >= self._wanted.least:
            options.append(EMPTY)
        if self._most is None or count < self._most:
            comma = self._marks.comma if count else EMPTY
            following = min(count + 1, max(self._counted, 1))
            if self._wanted.most is None or matched < self._wanted.most:
                more = matched + 1 if self._wanted.most is not None else min(matched + 1, self._wanted.least)
                options.append(seq(comma, self._match, self._tail(following, more)))
            options.append(seq(comma, self._other, self._tail(following, matched)))
        return either(*options) if options else NOTHING
