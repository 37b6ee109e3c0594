from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from rest_bridge.schemas.generation import GenerationRequest
from rest_bridge.schemas.inputs import Prompt
from rest_bridge.schemas.replies import FinishReason, ReplyMetadata, Usage


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions."""

    prompt: Prompt = Field(description="The text to continue, or its token ids.")


class CompletionChoice(BaseModel):
    """One generated text; in a stream, what is new of it."""

    text: str
    index: int
    logprobs: None
    finish_reason: FinishReason | None = Field(description="Null in every chunk of a stream but the last.")
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class Completion(BaseModel):
    """The whole answer."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[CompletionChoice]
    usage: Usage
    pg_metadata: ReplyMetadata


class CompletionChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[CompletionChoice]
    usage: Usage | None = Field(default=None, description="Only with `stream_options.include_usage`.")
