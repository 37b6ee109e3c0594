"""What replies of every kind are made of. These models document; the replies are built in `convert`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]


class PromptTokensDetails(BaseModel):
    """What became of the prompt."""

    cached_tokens: int = Field(description="Prompt tokens that did not have to be computed again.")


class Usage(BaseModel):
    """Token counts of the whole request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ReplyMetadata(BaseModel):
    """Where and how fast the request was served; times in milliseconds."""

    region: str
    latency_ms: int
    queue_time_ms: int
    inference_time_ms: int


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The parameter that is wrong; null: no single one is.")
    code: str | None


class ErrorReply(BaseModel):
    """The body of every error, and the event that ends a failed stream."""

    error: ErrorDetail
