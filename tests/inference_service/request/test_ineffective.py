"""Parameters of a valid request that have no effect are named."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_service.request.generate import parse_generate

_MESSAGES = [{"role": "ROLE_USER", "content": "x"}]
_TOOLS = [{"name": "f"}]
_STRICT = [*_TOOLS, {"name": "g", "strict": True}]


def _chat(**more: Any) -> dict[str, Any]:
    return {"chat": {"messages": _MESSAGES, **more}}


def _demanded(**constraint: Any) -> dict[str, Any]:
    return {**_chat(tools=_TOOLS, tool_choice={"mode": 3}), "constraint": constraint}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"prompt": "x"}, ()),
        ({"prompt": "x", "stopping": {"include_stop": True}}, ("stopping.include_stop",)),
        ({"prompt": "x", "stopping": {"include_stop": True, "stop": ["a"]}}, ()),
        (
            _chat(tool_choice={"mode": 2}, parallel_tool_calls=True),
            ("chat.tool_choice", "chat.parallel_tool_calls"),
        ),
        (_chat(tools=_TOOLS, tool_choice={"mode": 2}, parallel_tool_calls=False), ()),
        (_chat(tools=_TOOLS, tool_choice={"mode": 1, "name": "f"}), ("chat.tool_choice.name",)),
        (_chat(tools=_TOOLS, tool_choice={"mode": 4, "name": "f"}), ()),
        (_chat(tools=_STRICT), ("chat.tools[1].strict",)),
        (_chat(tools=_STRICT, tool_choice={"mode": 3}), ()),
        ({**_chat(tools=_STRICT), "constraint": {"json_object": True}}, ()),
        ({**_chat(tools=_STRICT), "constraint": {"regex": "a"}}, ("chat.tools[1].strict",)),
        (
            {**_chat(tools=_STRICT, tool_choice={"mode": 2}), "constraint": {"json_object": True}},
            ("chat.tools[1].strict",),
        ),
        (
            {
                **_chat(tools=_TOOLS, tool_choice={"mode": 3}),
                "stopping": {"stop": ["a"], "include_stop": True, "stop_token_ids": [3]},
            },
            ("stopping.stop", "stopping.stop_token_ids", "stopping.include_stop"),
        ),
        ({**_chat(tools=_TOOLS), "stopping": {"stop": ["a"], "stop_token_ids": [3]}}, ()),
        (_demanded(json_object=True), ("constraint.json_object",)),
        (_demanded(json_schema="{}"), ("constraint.json_schema",)),
        (
            _demanded(json_schema="{}", whitespace="WHITESPACE_FLEXIBLE"),
            ("constraint.json_schema", "constraint.whitespace"),
        ),
        (
            {"prompt": "x", "constraint": {"regex": "a", "whitespace": "WHITESPACE_COMPACT"}},
            ("constraint.whitespace",),
        ),
        ({"prompt": "x", "constraint": {"json_schema": "{}", "whitespace": "WHITESPACE_FLEXIBLE"}}, ()),
        ({**_chat(tools=_TOOLS), "constraint": {"json_object": True, "whitespace": 2}}, ()),
    ],
    ids=str,
)
def test_parameters_without_effect_are_named(given: dict[str, Any], named: tuple[str, ...]) -> None:
    """They have their public names."""
    assert parse_generate(ParseDict({"model": "m", **given}, GenerateRequest())).ignored == named
