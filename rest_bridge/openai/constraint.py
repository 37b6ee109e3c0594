"""The many ways to say what an answer must be → the one of the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lodestream.inference.v1.generation_pb2 import Constraint

from rest_bridge.errors import ApiError, invalid
from rest_bridge.openai.fields import json_text
from rest_bridge.openai.requests import GenerationRequest
from rest_bridge.openai.tools import ResponseFormat


@dataclass(frozen=True, slots=True)
class RequestedConstraint:
    """One constraint that a body asks for."""

    kind: str
    """The field of the protocol."""
    param: str
    """Where the body says it."""
    value: dict[str, Any] | str | bool


def read_constraint(body: GenerationRequest) -> RequestedConstraint | None:
    """The constraint of a body.

    Raises:
        ApiError: 400, it has two, or one without what it needs.

    """
    first, second = [*_wishes(body), None, None][:2]
    if first is not None and second is not None:
        raise invalid(second.param, f"{second.param} and {first.param} are two constraints; one is possible.")
    return first


def write_constraint(target: Constraint, wish: RequestedConstraint) -> None:
    """Put a constraint into a request.

    Raises:
        ApiError: 400, a schema cannot be written as JSON.

    """
    value = wish.value
    setattr(target, wish.kind, json_text(value, wish.param) if isinstance(value, dict) else value)


def _wishes(body: GenerationRequest) -> Iterator[RequestedConstraint]:
    if body.response_format is not None and body.response_format.type != "text":
        yield _from_format(body.response_format)
    if body.guided_json is not None:
        yield RequestedConstraint("json_schema", "guided_json", body.guided_json)
    if body.guided_regex is not None:
        yield RequestedConstraint("regex", "guided_regex", body.guided_regex)
    if body.guided_grammar is not None:
        yield RequestedConstraint("grammar", "guided_grammar", body.guided_grammar)


def _from_format(wanted: ResponseFormat) -> RequestedConstraint:
    if wanted.type == "json_object":
        return RequestedConstraint("json_object", "response_format", True)
    if wanted.type == "json_schema":
        if wanted.json_schema is None:
            raise _missing("response_format.json_schema")
        return RequestedConstraint(
            "json_schema", "response_format.json_schema.schema", wanted.json_schema.schema_
        )
    value: str | None = getattr(wanted, wanted.type)
    param = f"response_format.{wanted.type}"
    if value is None:
        raise _missing(param)
    return RequestedConstraint("regex" if wanted.type == "regex" else "grammar", param, value)


def _missing(param: str) -> ApiError:
    return invalid(param, f"{param} is required.", "missing_required_parameter")
