"""Every parameter that the bridge's schemas and policy declare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from rest_bridge.openai import policy as ignored
from rest_bridge.openai.inputs import RequestModel
from rest_bridge.openai.requests import GenerationRequest


def declared_in(schema: type[GenerationRequest]) -> list[str]:
    """The paths of an endpoint's parameters, with the members of objects: `messages[].role`."""
    return list(_paths("", schema))


def _paths(path: str, schema: type[RequestModel]) -> Iterator[str]:
    for name, field in schema.model_fields.items():
        here = path + (field.alias or name)
        yield here
        for suffix, member in _objects(field.annotation):
            yield from _paths(f"{here}{suffix}.", member)
    policy = ignored.policy_of(schema)
    yield from (path + name for name in sorted(policy.refused))
    yield from (path + name for name in sorted(policy.without_effect))


def _objects(annotation: Any) -> Iterator[tuple[str, type[RequestModel]]]:
    """The object types in a parameter's type, with `[]` for those in an array."""
    if isinstance(annotation, type) and issubclass(annotation, RequestModel):
        yield "", annotation
    suffix = "[]" if get_origin(annotation) is list else ""
    for part in get_args(annotation):
        yield from ((suffix + inner, member) for inner, member in _objects(part))
