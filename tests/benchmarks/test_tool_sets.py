"""Demanded calls of typical tool sets on a running bridge: a sample of the benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from benchmarks.constraints import MODEL, demand_call
from benchmarks.servers import pair

_POINT = {"type": "array", "items": {"type": "number", "format": "float"}, "minItems": 2, "maxItems": 2}
_PERIOD = {"type": "string", "enum": ["day", "week"], "default": "day"}


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


SETS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "numbers": ([_object("base", base={"type": "number", "format": "float"}, unit={"type": "string"})], []),
    "nested": ([_object("at", at=_object("point", point=_POINT), period=_PERIOD)], []),
    "several": ([_object("a", a={"type": "boolean"}), _object(), _object("b", b={"type": "integer"})], []),
    "any": ([_object("x", x={"description": "anything"})], []),
    "unknown format": (
        [_object("x", x={"type": "string", "format": "colour"})],
        ["tools[0].function.parameters.properties.x.format"],
    ),
    "unknown keyword": (
        [_object(), _object("x", x={"type": "integer", "optional": True})],
        ["tools[1].function.parameters.properties.x.optional"],
    ),
    "different elements": (
        [_object("x", x={"type": "array", "items": {"type": "integer"}, "uniqueItems": True})],
        ["tools[0].function.parameters.properties.x.uniqueItems"],
    ),
}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        pair(backend="simulated", model=MODEL) as servers,
        httpx.Client(base_url=f"http://{servers.bridge.address}", timeout=60) as client,
    ):
        yield client


@pytest.mark.parametrize("name", SETS)
def test_a_demanded_call_follows_the_enforced_keywords(http: httpx.Client, name: str) -> None:
    """Exactly the keywords that are not enforced are named."""
    tools, dropped = SETS[name]
    call = demand_call(http, tools)

    assert call.complies
    assert list(call.dropped) == dropped
