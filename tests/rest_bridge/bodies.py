"""Request bodies for tests."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict

from rest_bridge.openai.convert import chat_request, completion_request
from rest_bridge.openai.requests import ChatCompletionRequest, CompletionRequest
from rest_bridge.request import parse_body

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
COMPLETIONS_STREAM = "/v1/completions/stream"


def chat(**more: Any) -> dict[str, Any]:
    """A minimal chat request with the given members."""
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}


def completion(**more: Any) -> dict[str, Any]:
    """A minimal completion request with the given members."""
    return {"model": "m", "prompt": "hi", **more}


def sent(body: dict[str, Any]) -> dict[str, Any]:
    """The message to the service for a body, as a dictionary."""
    raw = json.dumps(body).encode()
    if "prompt" in body:
        message = completion_request(parse_body(CompletionRequest, raw))
    else:
        message = chat_request(parse_body(ChatCompletionRequest, raw))
    return MessageToDict(message, preserving_proto_field_name=True)
