"""What an answer must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.parse.violations import Violations

ConstraintKind = Literal["json_object", "json_schema", "regex", "grammar"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint as the caller wrote it, not yet compiled."""

    kind: ConstraintKind
    source: str
    """Empty for `json_object`."""

    @property
    def field(self) -> str:
        """Its path in the protocol."""
        return constraint_field(self.kind)


def constraint_field(kind: ConstraintKind) -> str:
    """The path of a kind of constraint in the protocol."""
    return f"constraint.{kind}"


def read_constraint(message: pb.Constraint, wrong: Violations) -> Constraint | None:
    """The constraint of a request, if it has one."""
    kind = message.WhichOneof("kind")
    if kind is None:
        wrong.missing("constraint.kind")
        return None
    if kind == "json_object":
        if not message.json_object:
            wrong.add("constraint.json_object", "must be true where it is set.")
        return Constraint(kind, "")
    source = getattr(message, kind)
    if not source:
        wrong.add(constraint_field(kind), "must not be empty.")
    return Constraint(kind, source)
