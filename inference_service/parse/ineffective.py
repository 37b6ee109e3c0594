"""What a request holds that has no effect together with the rest of it."""

from __future__ import annotations

from collections.abc import Iterator

from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

_ENFORCED = (pb.TOOL_CHOICE_MODE_REQUIRED, pb.TOOL_CHOICE_MODE_NAMED)


def ineffective_fields(message: generate_pb.GenerateRequest) -> Iterator[str]:
    """Known parameters of a valid request that change nothing, by their public names."""
    if message.WhichOneof("input") == "chat":
        yield from _of_tools(message.chat)
        if message.HasField("constraint") and message.chat.tool_choice.mode in _ENFORCED:
            # The answer is calls, and nothing else.
            yield "response_format"
    if message.stopping.include_stop and not message.stopping.stop:
        yield "include_stop_str_in_output"


def _of_tools(chat: pb.ChatInput) -> Iterator[str]:
    if chat.tools:
        if chat.tool_choice.name and chat.tool_choice.mode != pb.TOOL_CHOICE_MODE_NAMED:
            yield "tool_choice.name"
        return
    if chat.HasField("tool_choice"):
        yield "tool_choice"
    if chat.HasField("parallel_tool_calls"):
        yield "parallel_tool_calls"
