"""Values to fields of request messages; what fits no field is named as the caller knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message as ProtoMessage


JsonSchemaSource = Mapping[str, Any] | str
"""A JSON Schema: its JSON text, or what that says."""


def schema_text(schema: JsonSchemaSource, name: str) -> str:
    """The JSON text of a schema; text is taken as it is, for the service to check.

    Raises:
        TypeError: it holds what JSON has no form for.
        ValueError: it holds itself, or a number that is not finite.

    """
    if isinstance(schema, str):
        return schema
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} is not JSON: {error}") from None


def set_field(message: ProtoMessage, field: str, value: Any, name: str | None = None) -> None:
    """Set a field to a value that is not None.

    Args:
        message: what has the field.
        field: its own name.
        value: None leaves it unset.
        name: what errors call it; None: its own name.

    Raises:
        TypeError: the value has the wrong type.
        ValueError: it does not fit.

    """
    if value is None:
        return
    try:
        setattr(message, field, value)
    except (TypeError, ValueError) as error:
        raise _misfit(name or field, error) from None


def set_fields(message: ProtoMessage, values: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Set each of the fields that has a value; raises what `set_field` raises."""
    for field in fields:
        set_field(message, field, values.get(field))


def extend_field(field: Any, values: Iterable[Any] | None, name: str) -> None:
    """Add values to a repeated field; raises what `set_field` raises."""
    if values is None:
        return
    try:
        field.extend(values)
    except (TypeError, ValueError) as error:
        raise _misfit(name, error) from None


def update_field(field: Any, values: Mapping[Any, Any] | None, name: str) -> None:
    """Add entries to a map field; raises what `set_field` raises."""
    try:
        field.update(values or {})
    except (TypeError, ValueError) as error:
        raise _misfit(name, error) from None


def _misfit(name: str, error: TypeError | ValueError) -> TypeError | ValueError:
    if isinstance(error, UnicodeEncodeError):
        return ValueError(f"{name} does not fit: half a surrogate pair is not text.")
    return type(error)(f"{name} does not fit: {error}")
