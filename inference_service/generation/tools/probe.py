"""Conversations that show what a chat template does with tools."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inference_service.generation.tools.arguments import RawArguments
from inference_service.generation.tools.formats import BARE, TAGGED, ToolFormat

_NAME, _ARGUMENT, _RESULT = "find_probe", "probe_argument", "probe result"
INSTRUCTION = "probe instruction"

_QUESTION = {"role": "user", "content": "probe question"}
_CALL = {"name": _NAME, "arguments": {_ARGUMENT: "probe value"}}
_RAW = RawArguments(f'{{"{_ARGUMENT}": "probe val')


def _calls(count: int, call: Mapping[str, Any] = _CALL) -> list[Mapping[str, Any]]:
    ids = [f"call_probe{index}" for index in range(count)]
    calls = [{"id": call_id, "type": "function", "function": call} for call_id in ids]
    results = [{"role": "tool", "content": _RESULT, "tool_call_id": call_id} for call_id in ids]
    return [_QUESTION, {"role": "assistant", "content": "", "tool_calls": calls}, *results]


TOOLS: list[Mapping[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "probe tool",
            "parameters": {"type": "object", "properties": {"probe_parameter": {"type": "string"}}},
        },
    }
]
CONVERSATION = _calls(1)
SEVERAL_CALLS = _calls(2)
CUT_CALL = _calls(1, {"name": _NAME, "arguments": _RAW})
INSTRUCTED: list[Mapping[str, Any]] = [{"role": "system", "content": INSTRUCTION}, _QUESTION]

_WRITTEN_CALL = re.compile(
    rf'(<tool_call>\s*)?\{{\s*"name"\s*:\s*"{_NAME}"\s*,\s*"(arguments|parameters)"\s*:\s*\{{\s*"{_ARGUMENT}"'
)


def takes_raw_arguments(rendered: str) -> bool:
    """Whether what a template made of CUT_CALL holds its arguments as they are."""
    return f": {_RAW}" in rendered


def find_format(rendered: str) -> ToolFormat | None:
    """The format of calls in what a template made of CONVERSATION and TOOLS.

    None: the template leaves out the tool, its call or its result, or writes calls in no format that is
    known here.
    """
    call = _WRITTEN_CALL.search(rendered)
    if call is None or "probe_parameter" not in rendered or _RESULT not in rendered:
        return None
    tag, key = call.groups()
    return TAGGED[key] if tag else BARE[key]
