"""Messages for the parser of requests, and their violations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.errors import InvalidRequest
from inference_service.request.generate import ineffective_fields, parse_generate
from inference_service.request.prompt import ChatPrompt

USER = pb.ChatMessage(role=pb.ROLE_USER, content="u")


def request(**fields: Any) -> generate_pb.GenerateRequest:
    """A text request; valid unless the given fields are not."""
    return generate_pb.GenerateRequest(**{"model": "m", "prompt": "p", **fields})


def chat(*messages: pb.ChatMessage, **fields: Any) -> generate_pb.GenerateRequest:
    """A chat request; `fields` are of ChatInput."""
    spoken = messages or (USER,)
    return generate_pb.GenerateRequest(model="m", chat=pb.ChatInput(messages=spoken, **fields))


def conversation(message: generate_pb.GenerateRequest) -> ChatPrompt:
    """The conversation of a valid request."""
    prompt = parse_generate(message).prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def wrong(message: generate_pb.GenerateRequest) -> dict[str, str]:
    """Field → description of every violation of a request."""
    with pytest.raises(InvalidRequest) as caught:
        parse_generate(message)
    return {violation.field: violation.description for violation in caught.value.violations}


def codes(message: generate_pb.GenerateRequest) -> dict[str, str]:
    """Field → code of every violation of a request."""
    with pytest.raises(InvalidRequest) as caught:
        parse_generate(message)
    return {violation.field: violation.code for violation in caught.value.violations}


def tool(name: str = "f", parameters: str = "", **fields: Any) -> pb.Tool:
    return pb.Tool(name=name, parameters=parameters, **fields)


def ignored(message: generate_pb.GenerateRequest) -> Sequence[str]:
    """The fields of a valid request that have no effect."""
    return parse_generate(message).ignored


def ignored_by_service(message: generate_pb.GenerateRequest) -> Sequence[str]:
    """The fields of a request that have no effect, even if others are invalid."""
    return tuple(ineffective_fields(message))
