from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from rest_bridge.schemas.fields import FIRST_BAD, RequestModel, documented, parameter
from rest_bridge.schemas.generation import GenerationRequest
from rest_bridge.schemas.inputs import Content, Part, RefusalPart, Role
from rest_bridge.schemas.logprobs import ChatLogprobs
from rest_bridge.schemas.replies import FinishReason, ReplyMetadata, Usage
from rest_bridge.schemas.tools import CalledTool, Tool, ToolCall, ToolCallDelta, ToolChoice


class ChatMessage(RequestModel):
    """One turn of a conversation."""

    role: Role
    content: Annotated[Content, Field(validate_default=True)] = None
    tool_calls: Annotated[list[CalledTool] | None, FIRST_BAD] = documented(
        "Only of the assistant: the calls that it made in this turn."
    )
    tool_call_id: str | None = documented("Required of a tool: the call that this is the result of.")

    refusal: str | None = documented(
        "Only of the assistant: its refusal, read as the text of the turn where there is no other."
    )

    @field_validator("content")
    @classmethod
    def _present(cls, content: str | list[Part] | None, info: ValidationInfo) -> str | list[Part] | None:
        if content is None and info.data.get("role") != "assistant":
            raise PydanticCustomError("missing_required_parameter", "is required")
        refuses = isinstance(content, list) and any(isinstance(part, RefusalPart) for part in content)
        if refuses and info.data.get("role") != "assistant":
            raise PydanticCustomError("invalid_value", "may hold a refusal only where the role is assistant")
        return content

    @property
    def text(self) -> str:
        """The text of the turn; none is empty."""
        text = self.content or ""
        if not isinstance(text, str):
            text = "".join(p.refusal if isinstance(p, RefusalPart) else p.text for p in text)
        return text or (self.refusal or "" if self.role == "assistant" else "")


class ChatCompletionRequest(GenerationRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], FIRST_BAD] = Field(
        description="The conversation, oldest turn first.", json_schema_extra={"minItems": 1}
    )
    logprobs: bool | None = documented("Log probabilities of the answer's tokens.", default=False)
    top_logprobs: int | None = parameter("top_logprobs")
    tools: Annotated[list[Tool] | None, FIRST_BAD] = parameter("tools")
    tool_choice: ToolChoice = documented("Only with `tools`: whether the model calls them.", default="auto")
    parallel_tool_calls: bool | None = documented(
        "Only with `tools`: one answer may hold several calls.", default=True
    )
    add_generation_prompt: bool | None = documented(
        "Ends the prompt with the header of the answer; unset: true, or false with `continue_final_message`."
    )
    continue_final_message: bool | None = documented(
        "The answer continues the text of the last message; not with `add_generation_prompt`.", default=False
    )


class ReplyMessage(BaseModel):
    """The generated turn."""

    role: Literal["assistant"]
    content: str | None = Field(description="Null where the model only called tools.")
    refusal: str | None
    tool_calls: list[ToolCall] | None = Field(default=None, description="Only where the model called tools.")


class ChatChoice(BaseModel):
    """One generated answer."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
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
    """What is new; the first one of a choice has the role, the last one of a choice is empty."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(BaseModel):
    """What is new of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
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
    pg_metadata: ReplyMetadata | None = Field(default=None, description="Beside `usage`.")
