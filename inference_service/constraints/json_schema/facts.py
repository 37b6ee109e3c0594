"""The facts about the values of one alternative of a schema, type by type."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.json_schema.document import Schema, type_of
from inference_service.constraints.json_schema.keywords import JSON_TYPES
from inference_service.constraints.nodes import Node

Atom: TypeAlias = tuple[Schema, bool]
"""A schema that has to hold (True), or must not (False)."""
Goal: TypeAlias = tuple[Atom, ...]
"""Schemas that a value has to agree with, all of them; in the order in which they were met."""


def goal_of(atoms: Iterable[Atom]) -> Goal:
    """Put atoms together: each once, references followed, those that demand nothing left out."""
    found: dict[Atom, None] = {}
    for schema, holds in atoms:
        meant = followed(schema) if holds else schema
        if not (holds and is_trivial(meant)):
            found[meant, holds] = None
    return tuple(sorted(found, key=lambda atom: (atom[0].index, atom[1])))


def followed(schema: Schema) -> Schema:
    """The target of a schema that is a reference and nothing else."""
    meant, visited = schema, 0
    while list(meant.keywords) == ["$ref"] and visited < _MAX_REFERENCES:
        meant, visited = meant.reference, visited + 1
    if visited == _MAX_REFERENCES:
        raise schema.unsupported("$ref", "it leads back to itself")
    return meant


_MAX_REFERENCES = 64
"""References that lead to a reference; more are taken for a circle."""


def is_trivial(schema: Schema) -> bool:
    """Whether a schema demands nothing."""
    if isinstance(schema.value, bool):
        return schema.value
    return not any(name not in _SILENT for name in schema.keywords)


_SILENT = frozenset(
    {
        *("$defs", "definitions", "$id", "id", "$anchor", "$schema", "nullable"),
        *("then", "else", "additionalItems", "minContains", "maxContains"),
    }
)
"""Keywords that demand nothing by themselves."""


def exact(number: int | float) -> Fraction:
    """A number as it is written, not as the float is stored: 0.1 is a tenth.

    Raises:
        ConstraintError: it is infinite.

    """
    if isinstance(number, float) and not math.isfinite(number):
        raise ConstraintError("a number in the schema has no JSON text: it is too large")
    return Fraction(number) if isinstance(number, int) else Fraction(Decimal(repr(number)))


_BEYOND = 10**117
"""No number that we write is as far from 0: 18 digits before the point, and an exponent of two."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An end of a range of numbers."""

    value: Fraction
    is_exclusive: bool


@dataclass(slots=True)
class NumberFacts:
    """The limits and multiples of numbers."""

    is_integer: bool | None = None
    """None: both integers and others."""
    low: Bound | None = None
    high: Bound | None = None
    multiples: tuple[Fraction, ...] = ()

    def at_least(self, value: Fraction, *, is_exclusive: bool) -> None:
        """Raise the lower end."""
        if value <= -_BEYOND:
            return
        bound = Bound(value, is_exclusive)
        if self.low is None or (value, is_exclusive) > (self.low.value, self.low.is_exclusive):
            self.low = bound

    def at_most(self, value: Fraction, *, is_exclusive: bool) -> None:
        """Lower the upper end."""
        if value >= _BEYOND:
            return
        bound = Bound(value, is_exclusive)
        if self.high is None or (value, not is_exclusive) < (self.high.value, not self.high.is_exclusive):
            self.high = bound

    @property
    def is_void(self) -> bool:
        """Whether there surely is no such number."""
        if self.is_integer is False and any(m.denominator == 1 for m in self.multiples):
            return True
        if self.low is None or self.high is None:
            return False
        if self.low.value == self.high.value:
            return self.low.is_exclusive or self.high.is_exclusive
        return self.low.value > self.high.value


@dataclass(slots=True)
class Counts:
    """The least and the most: of a length, or of a number of elements or members."""

    least: int = 0
    most: int | None = None

    def at_most(self, count: int) -> None:
        self.most = count if self.most is None else min(self.most, count)

    @property
    def is_void(self) -> bool:
        return self.most is not None and self.most < self.least


@dataclass(frozen=True, slots=True)
class Members:
    """The demands of one schema on an object's members."""

    properties: dict[str, Atom]
    patterns: tuple[tuple[str, Atom], ...] = ()
    additional: Atom | None = None


@dataclass(frozen=True, slots=True)
class Elements:
    """The demands of one schema on an array's elements: by position, and after these."""

    prefix: tuple[Atom, ...] = ()
    rest: Atom | None = None


@dataclass(frozen=True, slots=True)
class Contained:
    """Elements that have to be somewhere in an array, so many of them."""

    atom: Atom
    least: int = 1
    most: int | None = None


@dataclass(slots=True)
class Facts:
    """The facts that all values of one alternative share. Facts of one type say nothing of the others."""

    types: frozenset[str] = JSON_TYPES
    values: list[Any] | None = None
    """The only values; None: any."""
    excluded: list[Any] = field(default_factory=list)
    number: NumberFacts = field(default_factory=NumberFacts)
    languages: list[Node] = field(default_factory=list)
    """The languages to which all strings must belong, before they are written as JSON."""
    length: Counts = field(default_factory=Counts)
    elements: list[Elements] = field(default_factory=list)
    element_count: Counts = field(default_factory=Counts)
    unique: Schema | None = None
    """The schema that wants elements to differ."""
    contained: list[Contained] = field(default_factory=list)
    members: list[Members] = field(default_factory=list)
    required: dict[str, None] = field(default_factory=dict)
    absent: dict[str, None] = field(default_factory=dict)
    """Names that no member has."""
    member_count: Counts = field(default_factory=Counts)
    names: list[Atom] = field(default_factory=list)
    """The schemas that names of members must satisfy."""
    unsupported: list[tuple[str, ConstraintError]] = field(default_factory=list)
    """The keywords that cannot be enforced, with the type that they apply to."""

    def copy(self) -> Facts:
        """Copy them, for an alternative."""
        return replace(
            self,
            values=None if self.values is None else [*self.values],
            excluded=[*self.excluded],
            number=replace(self.number),
            languages=[*self.languages],
            length=replace(self.length),
            elements=[*self.elements],
            element_count=replace(self.element_count),
            contained=[*self.contained],
            members=[*self.members],
            required=dict(self.required),
            absent=dict(self.absent),
            member_count=replace(self.member_count),
            names=[*self.names],
            unsupported=[*self.unsupported],
        )

    def settle(self) -> bool:
        """Drop types of which there can be no value; whether any is left."""
        void = set()
        if self.number.is_void:
            void.add("number")
        if self.length.is_void:
            void.add("string")
        if self.element_count.is_void:
            void.add("array")
        if self.member_count.is_void or self.required.keys() & self.absent.keys():
            void.add("object")
        self.types -= void
        if self.values is not None:
            self.values = [value for value in self.values if type_of(value) in self.types]
            return bool(self.values)
        return bool(self.types)
