"""Calls of tools, whole and in pieces."""

from __future__ import annotations

from inference_client import ToolCall, ToolCallDelta
from rest_bridge.answer import Json


def whole_call(call: ToolCall) -> Json:
    """A call as a message has it."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def call_piece(piece: ToolCallDelta) -> Json:
    """A piece of a call as a chunk has it: id, type and name in the first one, and only there."""
    if piece.id is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    return {
        "index": piece.index,
        "id": piece.id,
        "type": "function",
        "function": {"name": piece.name, "arguments": piece.arguments},
    }
