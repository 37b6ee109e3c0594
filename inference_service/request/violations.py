"""Collects the violations of a request, and checks values against the table of parameters."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from inference_service.errors import InvalidRequest, Violation
from lodestream_common.parameters import Parameter, number_text

_FLOAT32_TINY = 2.0**-126
"""The least positive normal number of a 32-bit float (IEEE 754 binary32)."""
MAX_VIOLATIONS = 16
"""Most violations in one error."""


class Violations:
    """The violations found so far, so that a caller learns of all of them at once."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, description: str, code: str = "invalid_value") -> None:
        """Add a violation; see `Violation` for the arguments."""
        self._found.append(Violation(field, description, code))

    def add_missing(self, field: str) -> None:
        """Add the violation of a required field that is not set."""
        self.add(field, "is required.", "missing_required_parameter")

    def number(self, message: Message, parameter: Parameter) -> float:
        """The value of an optional numeric field, or its default. A value too small for a 32-bit float is 0.

        Args:
            message: the group of `GenerateRequest` that holds the field.
            parameter: one with a default.

        """
        name = parameter.field.rpartition(".")[2]
        if not message.HasField(name):
            return parameter.default or 0
        value: float = getattr(message, name)
        self.check(parameter.field, value, parameter)
        return as_float32(value)

    def check(self, field: str, value: float, parameter: Parameter) -> None:
        """Add a violation for a value outside a parameter's range."""
        if not parameter.accepts(value):
            self.add(field, f"is {number_text(value)}; it must be in {parameter.range}.")

    def check_count(self, field: str, count: int, most: int | None, what: str) -> None:
        """Add a violation for more than `most` elements; `what` names them, in the plural."""
        if most is not None and count > most:
            self.add(field, f"holds {count} {what}; it may hold {most}.")

    def check_length(self, field: str, text: str, least: int, most: int | None) -> None:
        """Add a violation for a text with fewer than `least` or more than `most` characters."""
        if most is not None and not least <= len(text) <= most:
            self.add(field, f"is {len(text)} characters long; it must be in [{least}, {most}].")

    @property
    def is_full(self) -> bool:
        """Whether the error is full, so that further checks are of no use."""
        return len(self._found) >= MAX_VIOLATIONS

    def raise_if_any(self) -> None:
        """Raise the error that a caller gets.

        Raises:
            InvalidRequest: there are violations.

        """
        if self._found:
            raise InvalidRequest(self._found[:MAX_VIOLATIONS])


def as_float32(value: float) -> float:
    """The value; 0 where its magnitude is below the normal range of 32-bit floats."""
    return value if abs(value) >= _FLOAT32_TINY else type(value)(0)


def check_token_ids(ids: Sequence[int], vocabulary_size: int, field: str) -> None:
    """Refuse ids outside the vocabulary.

    Raises:
        InvalidRequest: an id is outside; the error names the first one.

    """
    bad = next((n for n, token_id in enumerate(ids) if token_id >= vocabulary_size), None)
    if bad is not None:
        raise InvalidRequest.of(f"{field}[{bad}]", f"is {ids[bad]}; it must be in [0, {vocabulary_size}).")
