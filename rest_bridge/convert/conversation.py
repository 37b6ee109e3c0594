"""Messages and tools → the protocol's conversation."""

from __future__ import annotations

from lodestream.inference.v1 import generation_pb2 as pb

from rest_bridge.convert.json_text import json_text
from rest_bridge.schemas.chat import ChatCompletionRequest, ChatMessage
from rest_bridge.schemas.tools import NamedTool, Tool

_ROLES = {
    "system": pb.ROLE_SYSTEM,
    "developer": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}
_MODES = {
    "auto": pb.TOOL_CHOICE_MODE_AUTO,
    "none": pb.TOOL_CHOICE_MODE_NONE,
    "required": pb.TOOL_CHOICE_MODE_REQUIRED,
}


def fill_conversation(target: pb.ChatInput, body: ChatCompletionRequest) -> None:
    """Put what a body says into a request.

    Raises:
        ApiError: 400, the parameters of a tool cannot be written as JSON.

    """
    target.SetInParent()
    for turn in body.messages:
        _add_turn(target, turn)
    for number, tool in enumerate(body.tools or ()):
        _add_tool(target, tool, f"tools[{number}]")
    if body.tool_choice is not None:
        _choose(target.tool_choice, body.tool_choice)
    for name in ("parallel_tool_calls", "add_generation_prompt", "continue_final_message"):
        if (value := getattr(body, name)) is not None:
            setattr(target, name, value)


def _add_turn(target: pb.ChatInput, turn: ChatMessage) -> None:
    message = target.messages.add(role=_ROLES[turn.role], content=turn.text)
    for call in turn.tool_calls or ():
        message.tool_calls.add(id=call.id, name=call.function.name, arguments=call.function.arguments)
    if turn.tool_call_id is not None:
        message.tool_call_id = turn.tool_call_id


def _add_tool(target: pb.ChatInput, tool: Tool, param: str) -> None:
    function = tool.function
    added = target.tools.add(name=function.name, description=function.description or "")
    if function.parameters is not None:
        added.parameters = json_text(function.parameters, f"{param}.function.parameters")
    if function.strict is not None:
        added.strict = function.strict


def _choose(target: pb.ToolChoice, choice: str | NamedTool) -> None:
    if isinstance(choice, NamedTool):
        target.mode = pb.TOOL_CHOICE_MODE_NAMED
        target.name = choice.function.name
    else:
        target.mode = _MODES[choice]
