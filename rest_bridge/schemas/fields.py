"""How parameters are declared: types are checked here, ranges only written down.

Every range check lives in the service. What the schemas say of ranges and defaults is the table of
parameters, which the service checks by.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, FailFast, Field

from lodestream_common.parameters import PARAMETERS

FIRST_BAD = FailFast()
"""Reads an array up to its first bad element: a body of nothing else must not cost seconds."""


class RequestModel(BaseModel):
    """A JSON object from a caller: strict types, unset and null alike, unknown names kept for the policy."""

    # An error must never carry what the caller sent.
    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, hide_input_in_errors=True, frozen=True
    )


def documented(description: str, **schema: Any) -> Any:
    """Declare an optional parameter; `schema` goes into its JSON schema and checks nothing."""
    return Field(default=None, description=description, json_schema_extra=_extra(schema))


def parameter(name: str, meaning: str | None = None, **schema: Any) -> Any:
    """Declare an optional parameter as the table of parameters has it; the service checks it.

    Args:
        name: of a row of the table.
        meaning: for callers; None: the table's.
        schema: beside or instead of what the table says.

    """
    row = PARAMETERS[name]
    found: dict[str, Any] = {}
    if row.type in ("number", "integer"):
        low = "exclusiveMinimum" if row.excludes_low else "minimum"
        found |= {low: row.low, "maximum": row.high}
    if row.type == "array" and row.max_items is not None:
        found["maxItems"] = row.max_items
    if row.type == "string" and row.max_length is not None:
        found["maxLength"] = row.max_length
    if row.default is not None:
        found["default"] = row.default
    return documented(meaning or row.meaning, **{**found, **schema})


def _extra(schema: dict[str, Any]) -> Any:
    def complete(found: dict[str, Any]) -> None:
        # Null is accepted everywhere and means unset; it is no default worth showing.
        if found.get("default", ...) is None:
            del found["default"]
        found.update(schema)

    return complete
