"""How parameters are declared: types are checked here, ranges only written down.

Every range check lives in the service. What `documented` and `knob` put into the schema is compared with the
service's own table by a test.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, FailFast, Field

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


def knob(description: str, low: float, high: float, default: float | None = None, **schema: Any) -> Any:
    """Declare an optional number in [low, high] with its default; the service checks it."""
    bounds = {"minimum": low, "maximum": high} | ({} if default is None else {"default": default})
    return documented(description, **bounds, **schema)


def _extra(schema: dict[str, Any]) -> Any:
    def complete(found: dict[str, Any]) -> None:
        # Null is accepted everywhere and means unset; it is no default worth showing.
        if found.get("default", ...) is None:
            del found["default"]
        found.update(schema)

    return complete
