"""A body's bytes → a schema that holds, or a refusal that names the parameter, and never repeats input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from rest_bridge.errors import ApiError, invalid
from rest_bridge.schemas.fields import RequestModel

Schema = TypeVar("Schema", bound=RequestModel)

_MOST_PROBLEMS = 8
_OWN_KINDS = frozenset({"invalid_value", "missing_required_parameter", "unsupported_parameter"})
_PLACE = re.compile(r" at line (\d+) column (\d+)\Z")
_PROBLEMS = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be an integer",
    "list_type": "must be an array",
    "missing": "is required",
    "model_type": "must be an object",
    "string_type": "must be a string",
}
"""What pydantic calls a problem → what callers read."""


def parse_body(schema: type[Schema], body: bytes) -> Schema:
    """Read a request's body.

    Raises:
        ApiError: 400, with the first parameter that is wrong as `param`.

    """
    document = _parse_json(body)
    if not isinstance(document, dict):
        raise invalid(None, "The request body must be a JSON object.")
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    raise _refusal(found)


def _parse_json(body: bytes) -> object:
    if not body.strip():
        raise invalid(None, "The request body is empty; it must be a JSON object.")
    try:
        # A NaN or a lone surrogate is no JSON, whatever other parsers make of it.
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        place = _PLACE.search(str(error))
    where = f" (line {place[1]}, column {place[2]})" if place else ""
    raise invalid(None, f"The request body is not valid JSON{where}.")


def _refusal(found: Sequence[ErrorDetails]) -> ApiError:
    problems = [f"{_path(error['loc'])} {_problem(error)}." for error in found[:_MOST_PROBLEMS]]
    return invalid(_path(found[0]["loc"]), " ".join(problems), _code(found[0]["type"]))


def _problem(error: ErrorDetails) -> str:
    return error["msg"] if error["type"] in _OWN_KINDS else _PROBLEMS.get(error["type"], "is malformed")


def _code(kind: str) -> str:
    if kind in _OWN_KINDS:
        return kind
    return "missing_required_parameter" if kind == "missing" else "invalid_value"


def _path(loc: Sequence[int | str]) -> str:
    # Every name in it is one of ours: members that callers invent are never validated.
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return path.removeprefix(".")
