from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from rest_bridge.schemas.fields import FIRST_BAD, RequestModel
from rest_bridge.schemas.generation import GenerationRequest
from rest_bridge.schemas.inputs import Content, Role, TextPart
from rest_bridge.schemas.replies import FinishReason, ReplyMetadata, Usage


class ChatMessage(RequestModel):
    """One turn of a conversation."""

    role: Role
    content: Annotated[Content, Field(validate_default=True)] = None

    @field_validator("content")
    @classmethod
    def _present(
        cls, content: str | list[TextPart] | None, info: ValidationInfo
    ) -> str | list[TextPart] | None:
        if content is None and info.data.get("role") != "assistant":
            raise PydanticCustomError("missing_required_parameter", "is required")
        return content

    @property
    def text(self) -> str:
        """The text of the turn; none is empty."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatCompletionRequest(GenerationRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], FIRST_BAD] = Field(
        description="The conversation, oldest turn first.", json_schema_extra={"minItems": 1}
    )


class ReplyMessage(BaseModel):
    """The generated turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class ChatChoice(BaseModel):
    """One generated answer."""

    index: int
    message: ReplyMessage
    logprobs: None
    finish_reason: FinishReason
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class ChatCompletion(BaseModel):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[ChatChoice]
    usage: Usage
    pg_metadata: ReplyMetadata


class ChatDelta(BaseModel):
    """What is new; the first one has the role, the last one of a choice is empty."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None


class ChatChunkChoice(BaseModel):
    """What is new of one answer."""

    index: int
    delta: ChatDelta
    logprobs: None
    finish_reason: FinishReason | None
    token_ids: list[int] | None = Field(default=None, description="Only with `return_token_ids`.")


class ChatCompletionChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int = Field(description="Seconds since the Unix epoch.")
    model: str = Field(description="As the request named it.")
    choices: list[ChatChunkChoice]
    usage: Usage | None = Field(default=None, description="Only with `stream_options.include_usage`.")
