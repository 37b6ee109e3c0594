"""A schema as the caller wrote it: JSON text, and pointers into it."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote

from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.json_text import dumps

Schema: TypeAlias = "dict[str, Any] | bool"

_PLAIN_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")


def read_schema(text: str) -> Schema:
    """Parse the text of a schema.

    Raises:
        ConstraintError: it is not JSON, names a member twice, or is neither an object nor a boolean.

    """
    try:
        found = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_members)
    except json.JSONDecodeError as error:
        raise ConstraintError(
            f"the schema is not JSON: {error.msg}", f"line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise ConstraintError("the schema is nested too deep") from None
    except ConstraintError:
        raise
    except ValueError:
        # An integer of thousands of digits.
        raise ConstraintError("a number in the schema is too long") from None
    return as_schema(found, "$")


def _refuse_constant(name: str) -> NoReturn:
    raise ConstraintError(f"the schema is not JSON: {name} is no JSON number")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ConstraintError("an object in the schema names a member twice")
    return members


def as_schema(value: object, path: str) -> Schema:
    """Take a value for a schema.

    Raises:
        ConstraintError: it is neither an object nor a boolean.

    """
    if isinstance(value, dict | bool):
        return value
    raise ConstraintError("a schema must be an object or a boolean", path)


def inside(path: str, name: str) -> str:
    """The path of a member."""
    return f"{path}.{name}" if _PLAIN_NAME.fullmatch(name) else f"{path}[{json.dumps(name)}]"


def literal(value: object, path: str) -> str:
    """The JSON text of a value in the schema.

    Raises:
        ConstraintError: it has none.

    """
    try:
        return dumps(value)
    except (ValueError, RecursionError):
        raise ConstraintError(
            "this value has no JSON text: half a surrogate pair, or no number", path
        ) from None


def follow(root: Schema, reference: object, root_path: str, path: str) -> tuple[Schema, str]:
    """Follow a reference inside its own document; give what it leads to and where that stands.

    Args:
        root: the document.
        reference: `#`, or `#/` and a JSON pointer.
        root_path: where the document stands.
        path: where the reference stands.

    Raises:
        ConstraintError: it leads elsewhere, or nowhere.

    """
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ConstraintError("only references into the schema itself are supported: #/$defs/...", path)
    found: object = root
    place = root_path
    for part in unquote(reference[1:]).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        found = _member(found, key, path)
        place = inside(place, key)
    return as_schema(found, place), place


def _member(value: object, key: str, path: str) -> object:
    if isinstance(value, dict) and key in value:
        return value[key]
    if isinstance(value, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(value):
        return value[int(key[:9])]
    raise ConstraintError("this reference leads nowhere", path)
