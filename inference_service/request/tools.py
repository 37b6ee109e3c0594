"""The functions that a model may call, and the calls that a conversation holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.prompt.conversation import Tool, ToolCall, ToolChoice, ToolMode
from inference_service.request.violations import Violations
from lodestream_common.parameters import PARAMETERS

TOOLS = PARAMETERS["tools"]
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MODES = {
    pb.TOOL_CHOICE_MODE_UNSPECIFIED: ToolMode.AUTO,
    pb.TOOL_CHOICE_MODE_AUTO: ToolMode.AUTO,
    pb.TOOL_CHOICE_MODE_NONE: ToolMode.NONE,
    pb.TOOL_CHOICE_MODE_REQUIRED: ToolMode.REQUIRED,
    pb.TOOL_CHOICE_MODE_NAMED: ToolMode.NAMED,
}


def read_tools(messages: Sequence[pb.Tool], wrong: Violations) -> Sequence[Tool]:
    """The functions that a model may call."""
    wrong.check_count(TOOLS.field, len(messages), TOOLS.max_items, "tools")
    found: list[Tool] = []
    for number, message in enumerate(messages[: TOOLS.max_items]):
        if wrong.is_full:
            break
        field = f"chat.tools[{number}]"
        check_name(message.name, f"{field}.name", wrong)
        if any(tool.name == message.name for tool in found):
            wrong.add(f"{field}.name", "is the name of an earlier tool.")
        parameters = _parameters(message.parameters, f"{field}.parameters", wrong)
        found.append(Tool(message.name, message.description, parameters, message.strict))
    return tuple(found)


def read_tool_choice(chat: pb.ChatInput, tools: Iterable[Tool], wrong: Violations) -> ToolChoice:
    """Whether the model calls tools; without tools it calls none."""
    mode = _MODES.get(chat.tool_choice.mode)
    if mode is None:
        known = ", ".join(f"`{pb.ToolChoiceMode.Name(mode)}`" for mode in _MODES if mode)
        wrong.add("chat.tool_choice.mode", f"must be one of {known}.")
        return ToolChoice(ToolMode.NONE)
    if not chat.tools:
        if mode.is_enforced:
            wrong.add("chat.tool_choice", "is only for requests with `chat.tools`.")
        return ToolChoice(ToolMode.NONE)
    if mode is ToolMode.NAMED and all(tool.name != chat.tool_choice.name for tool in tools):
        wrong.add("chat.tool_choice", "names a tool that is not among `chat.tools`.")
    return ToolChoice(mode, chat.tool_choice.name if mode is ToolMode.NAMED else None)


def read_tool_calls(calls: Iterable[pb.ToolCall], field: str, wrong: Violations) -> Sequence[ToolCall]:
    """The calls of an earlier turn. Their arguments may be any text: what a model wrote may be no JSON."""
    found = []
    for number, call in enumerate(calls):
        if wrong.is_full:
            break
        name = f"{field}.tool_calls[{number}]"
        if not call.id:
            wrong.missing(f"{name}.id")
        check_name(call.name, f"{name}.name", wrong)
        found.append(ToolCall(call.id, call.name, call.arguments))
    return tuple(found)


def check_name(name: str, field: str, wrong: Violations) -> None:
    """Note what is no name of a function."""
    if not _NAME.fullmatch(name):
        wrong.add(field, "must be 1 to 64 characters of [A-Za-z0-9_-].")


def _parameters(text: str, field: str, wrong: Violations) -> Mapping[str, Any] | None:
    if not text:
        return None
    value = _json_object(text)
    if value is None:
        wrong.add(field, "must be a JSON object, a JSON Schema.")
    return value


def _json_object(text: str) -> dict[str, Any] | None:
    """The object; None for everything else, also where JSON's own syntax allows what is no text or number.

    That is half a surrogate pair, escaped, and a number beyond all floats.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
