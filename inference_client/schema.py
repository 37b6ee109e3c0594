"""JSON Schemas, as callers write them → as the service takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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
