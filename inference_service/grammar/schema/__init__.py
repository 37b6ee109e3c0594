"""JSON Schema to grammar: every keyword is honoured or refused."""

from __future__ import annotations

from inference_service.grammar.schema.compiler import schema_rule
from inference_service.grammar.schema.source import read_schema

__all__ = ["read_schema", "schema_rule"]
