"""Strings: their length, their pattern, their format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference_service.grammar.builder import GrammarBuilder
from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.json_text import json_char, json_string
from inference_service.grammar.nodes import Node, repeat, seq
from inference_service.grammar.regex import regex_string
from inference_service.grammar.schema.formats import FORMATS
from inference_service.grammar.schema.source import inside


def string_node(builder: GrammarBuilder, schema: Mapping[str, Any], path: str) -> Node:
    """Describe strings.

    Raises:
        ConstraintError: pattern, format and length cannot be kept, or not together.

    """
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    most = None if most is None else int(most)
    if most is not None and most < least:
        raise ConstraintError("maxLength is below minLength", path)
    if "format" in schema and "pattern" in schema:
        raise ConstraintError("format and pattern together are not supported", path)
    if "format" in schema:
        return _formatted(schema["format"], least, most, inside(path, "format"))
    if "pattern" in schema:
        return _placed(schema["pattern"], least, most, inside(path, "pattern"))
    if least == 0 and most is None:
        return json_string(builder)
    return seq('"', repeat(json_char(builder), least, most), '"')


def _formatted(name: str, least: int, most: int | None, path: str) -> Node:
    if name not in FORMATS:
        raise ConstraintError(f"this format is not supported; supported are {', '.join(FORMATS)}", path)
    return _placed(f"^(?:{FORMATS[name]})$", least, most, path)


def _placed(pattern: str, least: int, most: int | None, path: str) -> Node:
    try:
        return regex_string(pattern, least, most)
    except ConstraintError as error:
        message = f"{error.message} ({error.path})" if error.path else error.message
        raise ConstraintError(message, path) from None
